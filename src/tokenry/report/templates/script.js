// The tooltip of a token, for pointer and keyboard, and the search among samples; everything else on the page works without script.
const tip = document.getElementById("tip");
const signals = [...document.querySelectorAll("input[data-name]")].map((input) => input.dataset.name);
const states = { kept: "kept", dropped: "dropped", lowered: "dropped to a lower weight", prompt: "prompt, not learned from", large: "written by the large model" };

function facts(token) {
  const rows = [["token", token.textContent.replaceAll("\n", "")]];
  signals.forEach((name, index) => {
    const value = token.style.getPropertyValue(`--${index}`);
    if (value) rows.push([name, value]);
  });
  if (states[token.className]) rows.push(["choice", states[token.className]]);
  const weight = token.dataset.weight ?? { kept: "1", dropped: "0" }[token.className];
  if (weight) rows.push(["weight", weight]);
  if (token.dataset.class) rows.push(["class", token.dataset.class]);
  return rows;
}

function show(token) {
  const list = document.createElement("dl");
  for (const [name, value] of facts(token)) {
    list.append(Object.assign(document.createElement("dt"), { textContent: name }));
    list.append(Object.assign(document.createElement("dd"), { textContent: value.slice(0, 80) }));
  }
  tip.replaceChildren(list);
  tip.hidden = false;
  const box = token.getClientRects()[0];
  const above = box.top - tip.offsetHeight - 8;
  tip.style.left = `${scrollX + Math.max(8, Math.min(box.left, document.documentElement.clientWidth - tip.offsetWidth - 8))}px`;
  tip.style.top = `${scrollY + (above > 8 ? above : box.bottom + 8)}px`;
  token.setAttribute("aria-describedby", "tip");
}

function hide() {
  tip.hidden = true;
}

const tokenOf = (target) => (target instanceof Element ? target.closest(".map > span") : null);

for (const [enter, leave] of [["pointerover", "pointerout"], ["focusin", "focusout"]]) {
  addEventListener(enter, (event) => tokenOf(event.target) && show(tokenOf(event.target)));
  addEventListener(leave, (event) => tokenOf(event.target) && hide());
}

function focus(token) {
  token.tabIndex = -1;
  token.focus();
}

addEventListener("click", (event) => tokenOf(event.target) && focus(tokenOf(event.target)));

addEventListener("keydown", (event) => {
  if (event.key === "Escape") hide();
  const map = document.activeElement.closest(".map");
  const moves = { ArrowRight: 1, ArrowLeft: -1, Home: -Infinity, End: Infinity };
  if (!map || !(event.key in moves)) return;
  const tokens = [...map.querySelectorAll(":scope > span")];
  const from = tokens.indexOf(document.activeElement);
  const token = tokens[Math.max(0, Math.min(tokens.length - 1, from + moves[event.key]))];
  if (token) focus(token);
  event.preventDefault();
});

// Samples whose text or token classes hold every word that is searched for; without script all of them stand there.
const plain = (text) => text.replaceAll("·", " ").replaceAll("⏎", " ").toLowerCase();
const search = document.getElementById("search");
const samples = search ? [...search.closest(".toolbar").parentElement.querySelectorAll(":scope > details.sample")] : [];

function textOf(sample) {
  const classes = new Set([...sample.querySelectorAll("[data-class]")].map((token) => token.dataset.class));
  sample.text ??= plain([sample.textContent, ...classes].join(" "));
  return sample.text;
}

function filter() {
  const words = plain(search.value).split(/\s+/).filter(Boolean);
  let found = 0;
  for (const sample of samples) {
    sample.hidden = !words.every((word) => textOf(sample).includes(word));
    found += !sample.hidden;
  }
  document.getElementById("found").textContent = words.length ? `${found} of ${samples.length}` : "";
}

if (samples.length > 1) {
  search.closest("label").hidden = false;
  search.addEventListener("input", filter);
}

addEventListener("beforeprint", () => {
  for (const details of document.querySelectorAll("details")) details.open = true;
});

// Inside another page, as in `tokenry app`: that page has the bar, and gives the frame the height that it is told.
if (parent !== window) {
  document.documentElement.classList.add("embedded");
  new ResizeObserver(() => parent.postMessage({ tokenryHeight: document.documentElement.offsetHeight }, "*")).observe(document.body);
}
