// crowd-bounding-box: boxes drawn over an image by mouse or finger, or placed and moved by keys.
"use strict";

const CROWD_SMALLEST = 4;

class CrowdBoundingBox extends CrowdField {
  build() {
    this.boxes = [];
    this.picked = null;
    const help = [...this.querySelectorAll("short-instructions, full-instructions")];
    this.image = Crowd.h("img", { src: this.getAttribute("src"), alt: "The image to draw boxes on", draggable: "false" });
    this.layer = Crowd.h("div", { class: "layer" });
    this.stage = Crowd.h("div", {
      class: "box-stage", tabindex: "0", role: "application",
      "aria-label": "Image with boxes. Press N for a new box, the arrow keys to move it, with Shift to change its size, Delete to remove it, a number for its label, Escape when it is right, Tab for the next.",
      onkeydown: (event) => this.keys(event),
    }, this.image, this.layer);
    this.choosing = Crowd.h("div", { class: "choices", role: "group", "aria-label": "Label of the next box" });
    this.offer(Crowd.list(this.getAttribute("labels")));
    this.listing = Crowd.h("ul", { class: "box-list", "aria-label": "Boxes" });
    this.said = Crowd.h("p", { role: "status", class: "said" });
    this.replaceChildren(
      Crowd.h("h2", {}, this.getAttribute("header") || "Draw a box around each object"),
      this.choosing,
      this.stage, this.listing, this.said,
      ...help.map((node) => Crowd.h("details", {}, Crowd.h("summary", {}, node.getAttribute("header") || "Instructions"), node)),
    );
    this.stage.addEventListener("pointerdown", (event) => this.begin(event));
    const first = this.getAttribute("initial-value");
    if (first) this.restore({ boundingBoxes: Crowd.list(first) });
    this.image.addEventListener("load", () => this.draw());
  }

  /** Offer these labels for the next boxes; those that are drawn keep theirs. */
  offer(labels) {
    this.names = labels.map(String);
    this.label = this.names.includes(this.label) ? this.label : this.names[0] || "";
    this.choices = this.names.map((label, index) => {
      const button = Crowd.h("button", { type: "button", class: "choice", "aria-pressed": String(label === this.label), onclick: () => this.pickLabel(label) },
        Crowd.h("kbd", {}, String(index + 1)), Crowd.h("span", {}, label));
      button.style.borderLeft = `6px solid ${this.colour(label)}`;
      return button;
    });
    this.choosing.replaceChildren(...this.choices);
  }

  get given() {
    return {
      boundingBoxes: this.boxes.map(({ left, top, width, height, label }) => ({
        height: Math.round(height), label, left: Math.round(left), top: Math.round(top), width: Math.round(width),
      })),
      inputImageProperties: { height: this.image.naturalHeight, width: this.image.naturalWidth },
    };
  }

  restore(value) {
    const sides = ["left", "top", "width", "height"];
    this.boxes = (Array.isArray(value?.boundingBoxes) ? value.boundingBoxes : [])
      .filter((box) => sides.every((side) => Number.isFinite(box?.[side])))
      .map((box) => ({ ...Object.fromEntries(sides.map((side) => [side, box[side]])), label: String(box.label ?? this.label) }));
    this.draw();
  }

  colour(label) {
    return Crowd.colour(this.names, label);
  }

  key(key) {
    const label = this.names[Number(key) - 1];
    if (label === undefined) return false;
    this.pickLabel(label);
    return true;
  }

  pickLabel(label) {
    this.label = label;
    this.choices.forEach((button, index) => button.setAttribute("aria-pressed", String(this.names[index] === label)));
    if (this.picked !== null) {
      this.boxes[this.picked].label = label;
      this.draw();
      this.changed();
    }
  }

  begin(event) {
    if (this.off || event.button > 0) return;
    event.preventDefault();
    this.stage.focus();
    const { x, y } = this.at(event);
    const hit = this.boxes.findLastIndex((box) => x >= box.left && x <= box.left + box.width && y >= box.top && y <= box.top + box.height);
    const moving = hit >= 0 && !event.shiftKey;
    const origin = moving ? { ...this.boxes[hit] } : null;
    if (moving) this.picked = hit;
    else this.picked = this.boxes.push({ left: x, top: y, width: 0, height: 0, label: this.label }) - 1;
    const move = (next) => {
      const to = this.at(next);
      const box = this.boxes[this.picked];
      if (moving) Object.assign(box, this.inside({ ...origin, left: origin.left + to.x - x, top: origin.top + to.y - y }));
      else Object.assign(box, { left: Math.min(x, to.x), top: Math.min(y, to.y), width: Math.abs(to.x - x), height: Math.abs(to.y - y) });
      this.draw();
    };
    const end = () => {
      removeEventListener("pointermove", move);
      removeEventListener("pointerup", end);
      const box = this.boxes[this.picked];
      if (box.width < CROWD_SMALLEST || box.height < CROWD_SMALLEST) this.remove(this.picked);
      else this.changed();
      this.draw();
    };
    addEventListener("pointermove", move);
    addEventListener("pointerup", end);
  }

  keys(event) {
    if (this.off) return;
    const { naturalWidth: width, naturalHeight: height } = this.image;
    const step = Math.max(1, Math.round(Math.max(width, height) / 100));
    const ways = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] };
    if (event.key.toLowerCase() === "n") {
      this.picked = this.boxes.push({ left: width * 0.375, top: height * 0.375, width: width / 4, height: height / 4, label: this.label }) - 1;
    } else if (event.key === "Tab" && !event.shiftKey && this.picked !== null && this.picked + 1 < this.boxes.length) {
      this.picked += 1;
    } else if (this.picked === null) {
      return;
    } else if (event.key === "Escape") {
      this.picked = null;
    } else if (event.key === "Delete" || event.key === "Backspace") {
      this.remove(this.picked);
    } else if (ways[event.key]) {
      const [dx, dy] = ways[event.key];
      const box = this.boxes[this.picked];
      const next = event.shiftKey
        ? { ...box, width: Math.max(box.width + dx, step), height: Math.max(box.height + dy, step) }
        : { ...box, left: box.left + dx, top: box.top + dy };
      this.boxes[this.picked] = this.inside(next);
    } else {
      return;
    }
    event.preventDefault();
    event.stopPropagation();
    this.draw();
    this.changed();
  }

  inside(box) {
    const { naturalWidth: width, naturalHeight: height } = this.image;
    const wide = Math.min(box.width, width);
    const high = Math.min(box.height, height);
    return { ...box, width: wide, height: high, left: Math.min(Math.max(box.left, 0), width - wide), top: Math.min(Math.max(box.top, 0), height - high) };
  }

  remove(index) {
    this.boxes.splice(index, 1);
    this.picked = null;
    this.draw();
    this.changed();
  }

  at(event) {
    const frame = this.image.getBoundingClientRect();
    const x = ((event.clientX - frame.left) / frame.width) * this.image.naturalWidth;
    const y = ((event.clientY - frame.top) / frame.height) * this.image.naturalHeight;
    return { x: Math.min(Math.max(x, 0), this.image.naturalWidth), y: Math.min(Math.max(y, 0), this.image.naturalHeight) };
  }

  draw() {
    if (!this.image.naturalWidth) return;
    this.layer.replaceChildren(...this.boxes.map((box, index) => {
      const node = Crowd.box(box, this.image, this.colour(box.label));
      node.classList.toggle("picked", index === this.picked);
      return node;
    }));
    this.listing.replaceChildren(...this.boxes.map((box, index) => Crowd.h("li", {},
      `${box.label} at ${Math.round(box.left)}, ${Math.round(box.top)}, ${Math.round(box.width)} × ${Math.round(box.height)} `,
      Crowd.h("button", { type: "button", class: "plain", "aria-label": `Remove box ${index + 1}`, onclick: () => this.remove(index) }, "Remove"))));
    this.said.textContent = `${this.boxes.length} ${this.boxes.length === 1 ? "box" : "boxes"}`;
  }
}

CrowdBoundingBox.settable({
  labels: {
    get() {
      return this.names;
    },
    set(value) {
      this.offer(Array.isArray(value) ? value : Crowd.list(value));
      this.draw();
    },
  },
});
