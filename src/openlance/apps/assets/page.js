// Keys of the page: Esc stops, Alt+1..4 picks what to do. Enter sends by itself.
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") {
    const stop = document.querySelector("button#stop, #stop button");
    if (stop) stop.click();
  }
  if (event.altKey && event.key >= "1" && event.key <= "4") {
    const choice = document.querySelectorAll("#mode input[type=radio]")[Number(event.key) - 1];
    if (choice) { choice.click(); event.preventDefault(); document.querySelector("#box textarea")?.focus(); }
  }
});
