"""Take docs/page.png: a picture, an edit and a question on the page of a running server.

    openlance serve &
    python tools/page_picture.py http://127.0.0.1:8000

Needs chromium, chromedriver and selenium.
"""

import argparse
import shutil
import tempfile
import time
from pathlib import Path

from PIL import Image
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

TURNS = (("Make image", "a red circle to the left of a blue star on a white background"), ("Edit", "make the background navy"))
FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--hide-scrollbars")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("address")
    parser.add_argument("--output", type=Path, default=Path(__file__).parents[1] / "docs" / "page.png")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as profile:
        options = webdriver.ChromeOptions()
        options.binary_location = shutil.which("chromium") or ""
        for flag in (*FLAGS, "--window-size=1280,1000", f"--user-data-dir={profile}"):
            options.add_argument(flag)
        driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
        try:
            take(driver, args.address, args.output)
        finally:
            driver.quit()


def take(driver: webdriver.Chrome, address: str, output: Path) -> None:
    """Hold the conversation and save the picture."""
    wait = WebDriverWait(driver, 120)
    driver.get(address)
    for count, (mode, text) in enumerate(TURNS, 1):
        labels = wait.until(lambda d: [label for label in d.find_elements(By.CSS_SELECTOR, "#mode label") if label.text])
        next(label for label in labels if label.text == mode).click()
        time.sleep(0.5)
        box = driver.find_element(By.CSS_SELECTOR, "#box textarea")
        box.send_keys(text, Keys.ENTER)
        wait.until(lambda d, n=count: len(d.find_elements(By.CSS_SELECTOR, "#gallery .grid-container img")) >= n)  # type: ignore[misc]
        time.sleep(1.5)
    with tempfile.NamedTemporaryFile(suffix=".png") as raw:
        driver.save_screenshot(raw.name)
        Image.open(raw.name).convert("RGB").quantize(128).save(output, optimize=True)
    print(f"{output} ({output.stat().st_size // 1024} KiB)")


if __name__ == "__main__":
    main()
