// An image at full size: fitted at first, zoomed by wheel, pinch, keys or buttons, moved by dragging.

import { h } from "./dom.js";

const STEP = 1.3;
const LARGEST = 16;
// A tiny image is read best when it is not blown up to the whole screen.
const ENLARGED = 280;

export class Viewer {
  /**
   * @param {string} source the image's URL
   * @param {string} alt what a screen reader says of it
   * @param {{box: object, id: string, kind: string}[]} boxes fractions of the image, drawn over it
   */
  constructor(source, alt, boxes = []) {
    this.scale = 1;
    this.x = 0;
    this.y = 0;
    this.pointers = new Map();
    this.image = h("img", { src: source, alt, draggable: "false" });
    this.layer = h("div", { class: "boxes", "aria-hidden": "true" });
    this.boxes = new Map();
    for (const each of boxes) this.#addBox(each);
    this.canvas = h("div", { class: "canvas" }, this.image, this.layer);
    this.stage = h("div", { class: "stage" }, this.canvas);
    this.level = h("span", { class: "level" }, "fit");
    this.element = h(
      "div",
      { class: "viewer" },
      this.stage,
      h(
        "div",
        { class: "tools", role: "group", "aria-label": "Zoom" },
        h("button", { type: "button", "aria-label": "Zoom out", title: "Zoom out (−)", onclick: () => this.zoom(1 / STEP) }, "−"),
        this.level,
        h("button", { type: "button", "aria-label": "Zoom in", title: "Zoom in (+)", onclick: () => this.zoom(STEP) }, "+"),
        h("button", { type: "button", title: "Fit the image (F)", onclick: () => this.fit() }, "Fit"),
        h("button", { type: "button", class: "actual", title: "One pixel a pixel", onclick: () => this.actual() }, "1:1"),
      ),
    );
    this.image.addEventListener("load", () => this.fit());
    this.image.addEventListener("error", () => this.#explain());
    this.stage.addEventListener("wheel", (event) => this.#wheel(event), { passive: false });
    this.stage.addEventListener("pointerdown", (event) => this.#down(event));
    this.stage.addEventListener("pointermove", (event) => this.#move(event));
    for (const name of ["pointerup", "pointercancel", "pointerleave"]) {
      this.stage.addEventListener(name, (event) => this.pointers.delete(event.pointerId));
    }
    this.stage.addEventListener("dblclick", (event) => this.zoom(STEP * STEP, event));
    this.resize = new ResizeObserver(() => this.fitted && this.fit());
    this.resize.observe(this.stage);
  }

  close() {
    this.resize.disconnect();
  }

  /** Show the whole image; a small one is enlarged. */
  fit() {
    const { naturalWidth: width, naturalHeight: height } = this.image;
    if (!width || !this.stage.clientWidth) return;
    const whole = Math.min(this.stage.clientWidth / width, this.stage.clientHeight / height);
    const room = Math.min(whole, Math.max(1, ENLARGED / Math.max(width, height)));
    this.base = room;
    this.scale = 1;
    this.fitted = true;
    this.canvas.style.width = `${width * room}px`;
    this.canvas.style.height = `${height * room}px`;
    this.x = (this.stage.clientWidth - width * room) / 2;
    this.y = (this.stage.clientHeight - height * room) / 2;
    this.#draw();
  }

  actual() {
    if (this.base) this.zoom(1 / (this.base * this.scale));
  }

  zoom(factor, at = null) {
    const frame = this.stage.getBoundingClientRect();
    const cx = at ? at.clientX - frame.left : frame.width / 2;
    const cy = at ? at.clientY - frame.top : frame.height / 2;
    const scale = Math.min(Math.max(this.scale * factor, 0.2), LARGEST);
    const change = scale / this.scale;
    this.x = cx - (cx - this.x) * change;
    this.y = cy - (cy - this.y) * change;
    this.scale = scale;
    this.fitted = false;
    this.#draw();
  }

  pan(dx, dy) {
    this.x += dx;
    this.y += dy;
    this.fitted = false;
    this.#draw();
  }

  /** Take a key that is the viewer's own; tell whether it was one. */
  key(event) {
    const keys = {
      "+": () => this.zoom(STEP), "=": () => this.zoom(STEP), "-": () => this.zoom(1 / STEP),
      f: () => this.fit(), ArrowLeft: () => this.pan(60, 0), ArrowRight: () => this.pan(-60, 0),
      ArrowUp: () => this.pan(0, 60), ArrowDown: () => this.pan(0, -60),
    };
    const act = keys[event.key];
    if (act) act();
    return Boolean(act);
  }

  /** Mark one field's boxes and bring them into sight. */
  mark(id) {
    for (const [key, nodes] of this.boxes) {
      for (const node of nodes) node.classList.toggle("marked", key === id);
    }
    const nodes = this.boxes.get(id);
    if (!nodes || this.fitted) return;
    const box = nodes[nodes.length - 1].getBoundingClientRect();
    const frame = this.stage.getBoundingClientRect();
    if (box.left < frame.left || box.right > frame.right || box.top < frame.top || box.bottom > frame.bottom) {
      this.pan(
        frame.left + frame.width / 2 - (box.left + box.width / 2),
        frame.top + frame.height / 2 - (box.top + box.height / 2),
      );
    }
  }

  onbox(listener) {
    this.listener = listener;
  }

  #addBox({ box, id, kind }) {
    const node = h("div", { class: `box ${kind}`, onclick: () => this.listener?.(id) });
    node.style.left = `${box.left * 100}%`;
    node.style.top = `${box.top * 100}%`;
    node.style.width = `${box.width * 100}%`;
    node.style.height = `${box.height * 100}%`;
    this.layer.append(node);
    this.boxes.set(id, [...(this.boxes.get(id) || []), node]);
  }

  #draw() {
    this.canvas.style.transform = `translate(${this.x}px, ${this.y}px) scale(${this.scale})`;
    this.level.textContent = this.fitted ? "fit" : `${Math.round(this.scale * 100)} %`;
  }

  #wheel(event) {
    event.preventDefault();
    this.zoom(Math.exp(-event.deltaY / 400), event);
  }

  #down(event) {
    if (event.target.closest(".box")) return;
    this.stage.setPointerCapture(event.pointerId);
    this.pointers.set(event.pointerId, event);
  }

  #move(event) {
    const before = this.pointers.get(event.pointerId);
    if (!before) return;
    if (this.pointers.size === 1) {
      this.pan(event.clientX - before.clientX, event.clientY - before.clientY);
    } else {
      const other = [...this.pointers.values()].find((each) => each.pointerId !== event.pointerId);
      const gap = (a) => Math.hypot(a.clientX - other.clientX, a.clientY - other.clientY) || 1;
      this.zoom(gap(event) / gap(before), other);
    }
    this.pointers.set(event.pointerId, event);
  }

  async #explain() {
    // An image element does not say why; the answer's own line does.
    let reason = "The image cannot be shown.";
    try {
      const answer = await fetch(this.image.src);
      if (!answer.ok) reason = `The image cannot be shown: ${(await answer.text()).slice(0, 300)}`;
    } catch {
      reason = "The image cannot be fetched: the server does not answer.";
    }
    this.stage.replaceChildren(h("p", { class: "problem", role: "alert" }, reason));
  }
}
