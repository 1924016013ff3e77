"""The page in a real browser: make, edit, ask, stop, at desk and phone width. Screenshots land in outputs/screenshots."""

import os
import shutil
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.browser
CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
SHOTS = Path(os.environ.get("OPENLANCE_SCREENSHOTS", Path(__file__).parents[2] / "outputs" / "screenshots"))
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


class Page:
    """What a person does on the page."""

    def __init__(self, driver):
        self.driver = driver

    def find(self, selector, seconds=60.0, count=1):
        from selenium.webdriver.common.by import By

        until = time.monotonic() + seconds
        while time.monotonic() < until:
            found = [element for element in self.driver.find_elements(By.CSS_SELECTOR, selector) if element.is_displayed()]
            if len(found) >= count:
                return found
            time.sleep(0.05)
        self.shot("failed")
        raise AssertionError(f"no {selector} on the page")

    def gone(self, selector, seconds=60.0):
        from selenium.webdriver.common.by import By

        until = time.monotonic() + seconds
        while any(element.is_displayed() for element in self.driver.find_elements(By.CSS_SELECTOR, selector)):
            assert time.monotonic() < until, f"{selector} stays"
            time.sleep(0.05)

    def pick(self, mode):
        label = next(label for label in self.find("#mode label", count=4) if label.text == mode)
        label.click()

    def say(self, text, file=None):
        from selenium.webdriver.common.by import By
        from selenium.webdriver.common.keys import Keys

        if file is not None:
            self.driver.find_element(By.CSS_SELECTOR, "#box input[type=file]").send_keys(str(file))
            self.find("#box .thumbnail-item, #box .thumbnails img")
        box = self.find("#box textarea")[0]
        box.send_keys(text)
        box.send_keys(Keys.ENTER)

    def wait_for_text(self, text, seconds=60.0):
        until = time.monotonic() + seconds
        while text not in self.find("#chat")[0].text:
            assert time.monotonic() < until, f"'{text}' does not appear in: {self.find('#chat')[0].text}"
            time.sleep(0.05)

    def pictures(self):
        script = "return [...document.querySelectorAll('#chat .message img')].map(i => [i.complete, i.naturalWidth])"
        return self.driver.execute_script(script)

    def shot(self, name):
        SHOTS.mkdir(parents=True, exist_ok=True)
        self.driver.save_screenshot(str(SHOTS / f"{name}.png"))

    def overflow(self):
        return self.driver.execute_script("return document.documentElement.scrollWidth - window.innerWidth")


@pytest.fixture
def browse(tmp_path):
    if not CHROMIUM or not DRIVER:
        pytest.skip("chromium and chromedriver are not installed: apt install chromium chromium-driver")
    from selenium import webdriver

    drivers = []

    def run(url, width, height) -> Page:
        options = webdriver.ChromeOptions()
        options.binary_location = CHROMIUM
        for flag in (*FLAGS, f"--window-size={width},{height}", f"--user-data-dir={tmp_path / f'profile-{len(drivers)}'}"):
            options.add_argument(flag)
        drivers.append(webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER)))
        drivers[-1].get(url)
        page = Page(drivers[-1])
        page.find("#box textarea")
        return page

    yield run
    for driver in drivers:
        driver.quit()


def test_make_edit_ask_and_stop(start, browse, tmp_path, png):
    running = start(web=True)
    page = browse(running.url, 1280, 900)
    page.shot("1-start")
    page.say("a sun")
    page.wait_for_text("seed ")
    page.find("#gallery img")
    page.shot("2-picture")
    page.pick("Edit")
    page.say("at night")
    page.find("#slider img", count=2)
    page.gone("#stop")
    page.shot("3-edit")
    page.pick("Ask")
    page.say("what is it?")
    page.gone("#stop")
    page.wait_for_text("what is it?")
    assert all(complete and width for complete, width in page.pictures())
    page.pick("Edit")
    (tmp_path / "mine.png").write_bytes(png)
    page.say("redder", tmp_path / "mine.png")
    page.find("#gallery .grid-container button", count=3)
    page.pick("Make image")
    page.find("#settings button")[0].click()
    steps = page.find("#steps input[type=number]")[0]
    steps.clear()
    steps.send_keys("100\t")
    size = page.find("#width input")[0]
    size.send_keys("256\t")
    page.say("something long")
    page.find("#stop")[0].click()
    page.wait_for_text("Stopped.")
    page.gone("#stop")
    assert running.worker.idle
    page.shot("4-stopped")
    errors = [entry for entry in page.driver.get_log("browser") if entry["level"] == "SEVERE"]
    assert errors == []


def test_phone(start, browse):
    page = browse(start(web=True).url, 500, 900)
    page.driver.set_window_size(400, 860)
    page.say("a sun")
    page.wait_for_text("seed ")
    page.find("#gallery img")
    page.shot("5-phone")
    assert page.overflow() <= 0
    assert page.find("#box textarea")[0].rect["y"] < page.driver.execute_script("return window.innerHeight")


def test_errors_and_keys(start, browse):
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    page = browse(start(web=True).url, 1280, 900)
    ActionChains(page.driver).key_down(Keys.ALT).send_keys("4").key_up(Keys.ALT).perform()
    page.say("blue")
    page.wait_for_text("There is nothing to edit yet")
    page.shot("6-error")
    ActionChains(page.driver).key_down(Keys.ALT).send_keys("2").key_up(Keys.ALT).perform()
    page.find("#settings button")[0].click()
    steps = page.find("#steps input[type=number]")[0]
    steps.clear()
    steps.send_keys("100\t")
    page.find("#width input")[0].send_keys("256\t")
    page.say("long")
    page.find("#stop")
    ActionChains(page.driver).send_keys(Keys.ESCAPE).perform()
    page.wait_for_text("Stopped.")
