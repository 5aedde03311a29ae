// What the crowd elements share. Classic scripts, since a sandboxed frame has no origin to import by.
"use strict";

const CROWD_COLOURS = ["#2f80d0", "#d9480f", "#2b8a3e", "#9c36b5", "#c2255c", "#0b7285"];

const Crowd = {
  /** Make an element; `on…` members listen, `null` and `false` leave an attribute out. */
  h(tag, attributes = {}, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (value === null || value === undefined || value === false) continue;
      if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
      else element.setAttribute(name, value === true ? "" : value);
    }
    element.append(...children.filter((child) => child !== null && child !== undefined));
    return element;
  },

  /** Read an attribute: JSON, or an object literal as AWS's samples write it; null for neither. */
  read(text) {
    const tokens = /("(?:[^"\\]|\\.)*")|'((?:[^'\\]|\\.)*)'|([A-Za-z_$][\w$]*)(?=\s*:)|,(?=\s*[\]}])/gs;
    const asJson = (_, whole, single, key) => {
      if (whole !== undefined) return whole;
      if (single !== undefined) return `"${single.replace(/\\.|"/gs, (part) => ({ "\\'": "'", '"': '\\"' })[part] ?? part)}"`;
      return key === undefined ? "" : `"${key}"`;
    };
    for (const candidate of [text ?? "", (text ?? "").replace(tokens, asJson)]) {
      try {
        return JSON.parse(candidate);
      } catch {
        // The other spelling may do.
      }
    }
    return null;
  },

  /** Read a list from an attribute. */
  list(text) {
    const value = Crowd.read(text);
    return Array.isArray(value) ? value : [];
  },

  colour(names, label) {
    return CROWD_COLOURS[Math.max(names.indexOf(label), 0) % CROWD_COLOURS.length];
  },

  /** A box, in pixels of a loaded image, to lie over it. */
  box({ left, top, width, height, label }, image, colour) {
    const node = Crowd.h("div", { class: "drawn" }, Crowd.h("span", {}, label ?? ""));
    node.style.left = `${(left / image.naturalWidth) * 100}%`;
    node.style.top = `${(top / image.naturalHeight) * 100}%`;
    node.style.width = `${(width / image.naturalWidth) * 100}%`;
    node.style.height = `${(height / image.naturalHeight) * 100}%`;
    node.style.borderColor = colour;
    node.firstChild.style.background = colour;
    return node;
  },

  // A template's own `parent`, a global like any other, would hide the window's.
  page: window.parent,

  /** Fulfilled once the document is there, its listeners too, and its elements are built. */
  ready: new Promise((resolve) => {
    addEventListener("DOMContentLoaded", () => setTimeout(resolve));
  }),

  number: 0,
  id() {
    Crowd.number += 1;
    return `crowd-${Crowd.number}`;
  },
};

/**
 * An element that is built once, by `build()`, and whose properties a template's script may set at any
 * time. One that was set before the element was upgraded would hide the class's own for good, and one
 * that is set before it is built has nowhere to go: both are kept, and set once it is built.
 */
class CrowdElement extends HTMLElement {
  /** Give a class properties: for each name what reads it and what sets it, of a built element. */
  static settable(properties) {
    this.prototype.settable = { ...this.prototype.settable, ...properties };
    for (const [name, { get, set }] of Object.entries(properties)) {
      Object.defineProperty(this.prototype, name, {
        configurable: true,
        get() {
          return this.built ? get.call(this) : this.early[name];
        },
        set(value) {
          if (this.built) set.call(this, value);
          else this.early[name] = value;
        },
      });
    }
  }

  constructor() {
    super();
    this.early = {};
    for (const name of Object.keys(this.settable)) {
      if (!Object.hasOwn(this, name)) continue;
      this.early[name] = this[name];
      delete this[name];
    }
  }

  connectedCallback() {
    // Its children are parsed once the document is.
    if (this.built) return;
    this.build();
    this.built = true;
    Object.assign(this, this.early);
  }

  get off() {
    return this.hasAttribute("disabled");
  }

  /** The native controls that are off where the element is. */
  get controls() {
    return [];
  }
}

CrowdElement.settable({
  disabled: {
    get() {
      return this.off;
    },
    set(value) {
      this.toggleAttribute("disabled", Boolean(value));
      for (const control of this.controls) control.disabled = Boolean(value);
    },
  },
});

/**
 * An element that has a part in the answer: `name`, `given` (undefined for none), `restore(given)`,
 * and `missing()`, which says what has to be done first or nothing.
 */
class CrowdField extends CrowdElement {
  changed() {
    this.dispatchEvent(new CustomEvent("crowd-change", { bubbles: true }));
  }

  missing() {
    return "";
  }
}

CrowdField.settable({
  name: {
    get() {
      return this.getAttribute("name") || this.localName;
    },
    set(value) {
      this.setAttribute("name", value);
    },
  },
  // Of most elements it is their part in the answer.
  value: {
    get() {
      return this.given;
    },
    set(value) {
      this.restore(value);
    },
  },
});
