// The height of an embedded report, which the report tells; the button that copies a command; and sliders that the keyboard moves.
addEventListener("message", (event) => {
  const height = Number(event.data?.tokenryHeight);
  if (!(height > 0 && height < 200000)) return;
  for (const frame of document.querySelectorAll("iframe.report")) {
    if (frame.contentWindow === event.source) frame.style.height = `${height}px`;
  }
});

addEventListener("click", (event) => {
  const button = event.target instanceof Element ? event.target.closest("[data-copy]") : null;
  if (!button) return;
  navigator.clipboard.writeText(button.dataset.copy).then(() => {
    button.textContent = "copied";
    setTimeout(() => (button.textContent = "copy"), 1500);
  });
});

// A slider is let go when the pointer is; a key that moved it lets it go as well.
addEventListener("keyup", (event) => {
  const slider = event.target;
  const moves = event.key.startsWith("Arrow") || ["Home", "End", "PageUp", "PageDown"].includes(event.key);
  if (moves && slider instanceof HTMLInputElement && slider.type === "range") {
    slider.dispatchEvent(new PointerEvent("pointerup", { bubbles: true }));
  }
});
