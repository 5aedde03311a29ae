// crowd-tabs, crowd-tab, crowd-instructions.
"use strict";

class CrowdTabs extends HTMLElement {
  connectedCallback() {
    if (this.list) return;
    const tabs = [...this.children].filter((child) => child.localName === "crowd-tab");
    this.list = Crowd.h("div", { role: "tablist", class: "tab-list" });
    this.buttons = tabs.map((tab, index) => {
      tab.id ||= Crowd.id();
      const id = Crowd.id();
      tab.setAttribute("role", "tabpanel");
      tab.setAttribute("aria-labelledby", id);
      return Crowd.h("button", {
        type: "button", role: "tab", id, "aria-controls": tab.id,
        onclick: () => this.open(index), onkeydown: (event) => this.keys(event, index),
      }, tab.getAttribute("header") || `Tab ${index + 1}`);
    });
    this.tabs = tabs;
    this.list.append(...this.buttons);
    this.prepend(this.list);
    this.open(0);
  }

  open(wanted) {
    this.tabs.forEach((tab, index) => { tab.hidden = index !== wanted; });
    this.buttons.forEach((button, index) => {
      button.setAttribute("aria-selected", String(index === wanted));
      button.tabIndex = index === wanted ? 0 : -1;
    });
  }

  /** Bring what holds an element into sight. */
  reveal(element) {
    const index = this.tabs.findIndex((tab) => tab.contains(element));
    if (index >= 0) this.open(index);
  }

  keys(event, index) {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    const next = (index + step + this.buttons.length) % this.buttons.length;
    this.open(next);
    this.buttons[next].focus();
    event.preventDefault();
  }
}

class CrowdTab extends HTMLElement {}

class CrowdInstructions extends HTMLElement {
  connectedCallback() {
    if (this.dialog) return;
    const text = this.getAttribute("link-text") || "Instructions";
    const title = Crowd.id();
    const parts = [...this.children].flatMap((part) => [
      part.localName.endsWith("-example") ? Crowd.h("h3", {}, part.localName === "positive-example" ? "A good example" : "A bad example") : null,
      part,
    ]);
    this.dialog = Crowd.h("dialog", { "aria-labelledby": title }, Crowd.h("h2", { id: title }, text), ...parts,
      Crowd.h("p", {}, Crowd.h("button", { type: "button", class: "plain", onclick: () => this.dialog.close() }, "Close")));
    this.replaceChildren(Crowd.h("button", { type: "button", class: "plain", onclick: () => this.dialog.showModal() }, text), this.dialog);
  }
}
