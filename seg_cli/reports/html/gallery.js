// The viewer of examples: two of image, truth, prediction and errors in one frame, and a divider to move between them.
"use strict";

const WHAT = { image: "Image", truth: "Truth", prediction: "Prediction", errors: "Errors" };

function makeViewer(viewer) {
  const examples = [...viewer.closest("section").querySelectorAll("[data-example]")].map((figure) => ({
    name: figure.dataset.name,
    kinds: figure.dataset.kinds,
    score: figure.dataset.score,
    images: Object.fromEntries([...figure.querySelectorAll("img")].map((image) => [image.dataset.what, image])),
  }));
  if (!examples.length) return;
  const classOf = new Map((DATA.classes || []).map(([name, hex]) => [hex, name]));
  const shown = { index: 0, left: "truth", right: "prediction", opacity: 0.75, wipe: 50, blink: null, swapped: false };

  const base = element("img", { alt: "" });
  const over = { left: element("img", { className: "over", alt: "" }), right: element("img", { className: "over", alt: "" }) };
  const labels = { left: element("span", { className: "side left" }), right: element("span", { className: "side right" }) };
  const wipe = element("input", { type: "range", min: "0", max: "100", step: "2", value: "50" });
  wipe.setAttribute("aria-label", "Divider between the two pictures");
  const divider = element("div", { className: "divider" });
  const stage = element("div", { className: "stage" }, base, over.left, over.right, wipe, divider, labels.left, labels.right);
  const select = (side) => {
    const options = Object.entries(WHAT).map(([value, label]) => element("option", { value }, label));
    const made = element("select", {}, ...options);
    made.value = shown[side];
    made.addEventListener("change", () => { shown[side] = made.value; show(); });
    return made;
  };
  const selects = { left: select("left"), right: select("right") };
  const opacity = element("input", { type: "range", min: "0", max: "100", step: "5", value: "75" });
  opacity.addEventListener("input", () => { shown.opacity = opacity.value / 100; show(); });
  const button = (label, does) => {
    const made = element("button", { type: "button" }, label);
    made.addEventListener("click", does);
    return made;
  };
  const blink = button("Blink", toggleBlink);
  blink.setAttribute("aria-pressed", "false");
  const controls = element("div", { className: "controls" },
    button("‹ Previous", () => step(-1)), button("Next ›", () => step(1)),
    element("label", {}, "Left", selects.left), element("label", {}, "Right", selects.right),
    element("label", {}, "Opacity", opacity), blink);
  const caption = element("p", { className: "caption" });
  const thumbs = element("ul", { className: "thumbs" });
  thumbs.setAttribute("aria-label", "Examples");
  examples.forEach((example, index) => {
    const picture = element("img", { alt: "", src: example.images.image.src });
    const made = button(picture, () => { shown.index = index; show(); });
    made.append(element("b", {}, example.kinds), element("span", {}, example.score), element("span", {}, example.name));
    made.title = example.name;
    thumbs.append(element("li", {}, made));
  });
  viewer.append(stage, caption, controls, thumbs);
  viewer.hidden = false;

  function step(by) {
    shown.index = (shown.index + by + examples.length) % examples.length;
    show();
  }

  function toggleBlink() {
    if (shown.blink) clearInterval(shown.blink);
    shown.blink = shown.blink ? null : setInterval(() => { shown.swapped = !shown.swapped; place(); }, 700);
    shown.swapped = false;
    blink.setAttribute("aria-pressed", String(Boolean(shown.blink)));
    place();
  }

  // Where the divider stands; while blinking, one of the two pictures fills the frame.
  function place() {
    const at = shown.blink ? (shown.swapped ? 0 : 100) : shown.wipe;
    over.left.style.clipPath = `inset(0 ${100 - at}% 0 0)`;
    over.right.style.clipPath = `inset(0 0 0 ${at}%)`;
    divider.style.left = `${at}%`;
    divider.hidden = Boolean(shown.blink);
    labels.left.hidden = at <= 4;
    labels.right.hidden = at >= 96;
    wipe.setAttribute("aria-valuetext", `${at} % ${WHAT[shown.left]}, ${100 - at} % ${WHAT[shown.right]}`);
  }

  function show() {
    const { images, name, kinds, score } = examples[shown.index];
    base.src = images.image.src;
    base.alt = `${name}, ${WHAT[shown.left]} on the left and ${WHAT[shown.right]} on the right`;
    const { naturalWidth: width, naturalHeight: height } = images.image;
    if (width) {
      stage.style.aspectRatio = `${width} / ${height}`;
      stage.style.maxWidth = `calc(min(72vh, 44rem) * ${width / height})`;
      base.style.imageRendering = width < 200 ? "pixelated" : "auto";
    } else images.image.addEventListener("load", show, { once: true });
    for (const side of ["left", "right"]) {
      over[side].hidden = shown[side] === "image";
      over[side].src = images[shown[side]].src;
      over[side].style.opacity = shown.opacity;
      labels[side].textContent = WHAT[shown[side]];
    }
    caption.replaceChildren(element("b", {}, `${kinds} · ${score} `), element("span", {}, name));
    [...thumbs.querySelectorAll("button")].forEach((one, index) => one.setAttribute("aria-pressed", String(index === shown.index)));
    place();
  }

  wipe.addEventListener("input", () => { shown.wipe = Number(wipe.value); place(); });
  wipe.addEventListener("keydown", (event) => {
    const by = { ArrowUp: -1, ArrowDown: 1, PageUp: -1, PageDown: 1 }[event.key];
    if (by) { event.preventDefault(); step(by); }
    if (event.key === "b") toggleBlink();
  });

  // What lies under the pointer, read from the pictures' own pixels.
  const pixels = new Map();
  function classAt(image, x, y) {
    if (!pixels.has(image)) {
      const canvas = element("canvas", { width: image.naturalWidth, height: image.naturalHeight });
      const context = canvas.getContext("2d", { willReadFrequently: true });
      context.drawImage(image, 0, 0);
      pixels.set(image, context);
    }
    const { naturalWidth: width, naturalHeight: height } = image;
    const [red, green, blue, alpha] = pixels.get(image).getImageData(Math.floor(x * width), Math.floor(y * height), 1, 1).data;
    if (!alpha) return "no class";
    return classOf.get(`#${[red, green, blue].map((part) => part.toString(16).padStart(2, "0")).join("")}`) || "?";
  }
  wipe.addEventListener("pointermove", (event) => {
    const box = stage.getBoundingClientRect();
    const [x, y] = [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
    if (x < 0 || y < 0 || x >= 1 || y >= 1 || !classOf.size) return;
    const { images, name, kinds, score } = examples[shown.index];
    caption.replaceChildren(element("b", {}, `${kinds} · ${score} `), element("span", {}, `${name} · here: `),
      `truth ${classAt(images.truth, x, y)}, prediction ${classAt(images.prediction, x, y)}`);
  });
  wipe.addEventListener("pointerleave", show);
  show();
}

for (const viewer of document.querySelectorAll("[data-viewer]")) makeViewer(viewer);
