// The height of an embedded report, which the report tells; and the button that copies a command.
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
