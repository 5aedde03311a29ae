// crowd-classifier, crowd-image-classifier and their multi-select forms; crowd-image.
"use strict";

const CROWD_KEYS = [..."1234567890"];

class CrowdChoice extends CrowdField {
  build() {
    const labels = Crowd.list(this.getAttribute("categories")).map((each) => String(each.name ?? each).trim());
    this.exclusion = this.many ? Crowd.read(this.getAttribute("exclusion-category"))?.text?.trim() : undefined;
    this.labels = [...new Set(this.exclusion ? [...labels, this.exclusion] : labels)];
    this.chosen = new Set();
    const header = this.getAttribute("header") || "Choose";
    this.buttons = this.labels.map((label, index) =>
      Crowd.h(
        "button",
        { type: "button", class: "choice", "data-label": label, "aria-pressed": "false", disabled: this.off, onclick: () => this.choose(label) },
        CROWD_KEYS[index] ? Crowd.h("kbd", {}, CROWD_KEYS[index]) : null,
        Crowd.h("span", {}, label),
      ),
    );
    const help = [...this.querySelectorAll("short-instructions, full-instructions")].map((node) =>
      Crowd.h("details", {}, Crowd.h("summary", {}, node.getAttribute("header") || "Instructions"), node),
    );
    this.replaceChildren(
      Crowd.h("h2", {}, header),
      ...this.target(),
      Crowd.h("div", { class: "choices", role: "group", "aria-label": header }, ...this.buttons),
      ...help,
    );
    const first = this.getAttribute("initial-value");
    if (first) this.restore(this.many ? { labels: Crowd.list(first).map((each) => String(each).trim()) } : { label: first.trim() });
  }

  target() {
    const source = this.getAttribute("src");
    if (source) {
      const image = Crowd.h("img", { src: source, alt: this.getAttribute("alt") || "The image to be classified", class: "subject" });
      const overlay = Crowd.read(this.getAttribute("overlay"))?.boundingBox;
      return [overlay ? this.marked(image, overlay) : image];
    }
    const target = this.querySelector("classification-target");
    return target ? [target] : [];
  }

  /** An image under the boxes that are to be judged. */
  marked(image, { labels = [], value: boxes = [] }) {
    const names = [...new Set([...labels, ...boxes.map((box) => box.label)])];
    const layer = Crowd.h("div", { class: "layer" });
    const said = boxes.map((box) => `${box.label ?? "a box"} at ${box.left}, ${box.top}, ${box.width} × ${box.height}`);
    const draw = () => layer.replaceChildren(...boxes.map((box) => Crowd.box(box, image, Crowd.colour(names, box.label))));
    image.addEventListener("load", draw);
    return Crowd.h("figure", {}, Crowd.h("div", { class: "box-stage judged" }, image, layer),
      Crowd.h("figcaption", {}, boxes.length ? `Boxes: ${said.join("; ")}` : "No boxes."));
  }

  get many() {
    return this.localName.endsWith("-multi-select");
  }

  get controls() {
    return this.buttons;
  }

  get given() {
    const labels = this.labels.filter((label) => this.chosen.has(label));
    if (this.many) return { labels };
    return labels.length ? { label: labels[0] } : undefined;
  }

  choose(label) {
    if (!this.many) this.chosen = new Set([label]);
    else if (!this.chosen.delete(label)) {
      for (const each of label === this.exclusion ? [...this.chosen] : [this.exclusion]) this.chosen.delete(each);
      this.chosen.add(label);
    }
    this.show();
    this.changed();
  }

  key(key) {
    const label = this.labels[CROWD_KEYS.indexOf(key)];
    if (label === undefined) return false;
    this.choose(label);
    return true;
  }

  restore(value) {
    const labels = this.many ? value?.labels : [value?.label];
    this.chosen = new Set((Array.isArray(labels) ? labels : []).filter((label) => this.labels.includes(label)));
    this.show();
  }

  show() {
    for (const button of this.buttons) button.setAttribute("aria-pressed", this.chosen.has(button.dataset.label));
  }

  missing() {
    return this.chosen.size ? "" : `${this.getAttribute("header") || "Choose"}: choose one first.`;
  }
}

class CrowdImage extends HTMLElement {
  connectedCallback() {
    if (this.image) return;
    this.image = Crowd.h("img", { src: this.getAttribute("src"), alt: this.getAttribute("alt") || "The item's image", class: "subject" });
    const zoom = Crowd.h(
      "button",
      {
        type: "button", class: "plain", "aria-pressed": "false",
        onclick: () => zoom.setAttribute("aria-pressed", String(this.classList.toggle("full"))),
      },
      "Full size",
    );
    this.append(Crowd.h("div", { class: "image-frame", tabindex: "0", role: "group", "aria-label": "Image" }, this.image), zoom);
  }
}

class CrowdUnsupportedHere extends HTMLElement {
  connectedCallback() {
    this.append(Crowd.h("p", { class: "problem" }, `<${this.localName}> works alone in a template, without other inputs.`));
  }
}
