// What the crowd elements share. Classic scripts, since a sandboxed frame has no origin to import by.
"use strict";

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

  /** Read a list from an attribute: JSON, or JSON with single quotes as AWS's samples write it. */
  list(text) {
    for (const candidate of [text, (text || "").replaceAll("'", '"')]) {
      try {
        const value = JSON.parse(candidate);
        if (Array.isArray(value)) return value;
      } catch {
        // The other spelling may do.
      }
    }
    return [];
  },

  number: 0,
  id() {
    Crowd.number += 1;
    return `crowd-${Crowd.number}`;
  },
};

/**
 * An element that has a part in the answer: `name`, `value` (undefined for none), `restore(value)`,
 * and `missing()`, which says what has to be done first or nothing.
 */
class CrowdField extends HTMLElement {
  connectedCallback() {
    // Its children are parsed once the document is.
    if (this.built) return;
    this.built = true;
    this.build();
  }

  get name() {
    return this.getAttribute("name") || this.localName;
  }

  get off() {
    return this.hasAttribute("disabled");
  }

  changed() {
    this.dispatchEvent(new CustomEvent("crowd-change", { bubbles: true }));
  }

  missing() {
    return "";
  }
}
