// crowd-input, crowd-text-area, crowd-checkbox, crowd-radio-group, crowd-radio-button, crowd-button.
"use strict";

class CrowdText extends CrowdField {
  build() {
    const id = Crowd.id();
    const label = this.getAttribute("label") || this.getAttribute("placeholder") || this.name;
    this.field = this.make({
      id,
      placeholder: this.getAttribute("placeholder"),
      required: this.hasAttribute("required"),
      disabled: this.off,
      readonly: this.hasAttribute("readonly"),
      minlength: this.getAttribute("min-length"),
      maxlength: this.getAttribute("max-length"),
      oninput: () => this.changed(),
    });
    this.field.value = this.getAttribute("value") ?? this.textContent.trim();
    this.replaceChildren(Crowd.h("label", { for: id }, label), this.field);
    if (this.hasAttribute("auto-focus")) this.field.focus();
  }

  get given() {
    return this.field.value;
  }

  get controls() {
    return [this.field];
  }

  restore(value) {
    if (typeof value === "string") this.field.value = value;
  }

  missing() {
    if (this.field.checkValidity()) return "";
    this.field.focus();
    return this.getAttribute("error-message") || `${this.firstChild.textContent}: ${this.field.validationMessage}`;
  }
}

CrowdText.settable({
  value: {
    get() {
      return this.given;
    },
    set(value) {
      this.field.value = value ?? "";
    },
  },
});

class CrowdInput extends CrowdText {
  make(attributes) {
    const type = this.getAttribute("type") || "text";
    return Crowd.h("input", {
      ...attributes,
      type: ["number", "email", "url", "tel", "date", "time"].includes(type) ? type : "text",
      min: this.getAttribute("min"), max: this.getAttribute("max"),
      pattern: this.getAttribute("allowed-pattern"),
    });
  }
}

class CrowdTextArea extends CrowdText {
  make(attributes) {
    return Crowd.h("textarea", { ...attributes, rows: this.getAttribute("rows") || "4" });
  }

  missing() {
    this.field.setCustomValidity(this.fits() ? "" : "Please match the requested format.");
    return super.missing();
  }

  /** A textarea has no pattern of its own; one that is no regular expression asks nothing, as an input's. */
  fits() {
    const pattern = this.getAttribute("allowed-pattern");
    try {
      return !pattern || !this.given || new RegExp(`^(?:${pattern})$`, "v").test(this.given);
    } catch {
      return true;
    }
  }
}

/** A box to tick: its part in the answer is whether its `value` is chosen. */
class CrowdTick extends CrowdField {
  get state() {
    return this.getAttribute("value") || "on";
  }

  get given() {
    return { [this.state]: this.box.checked };
  }

  get controls() {
    return [this.box];
  }

  restore(value) {
    if (value && typeof value[this.state] === "boolean") this.box.checked = value[this.state];
  }
}

CrowdTick.settable({
  value: {
    get() {
      return this.state;
    },
    set(value) {
      this.setAttribute("value", value);
    },
  },
  checked: {
    get() {
      return this.box.checked;
    },
    set(value) {
      this.box.checked = Boolean(value);
    },
  },
});

class CrowdCheckbox extends CrowdTick {
  build() {
    this.box = Crowd.h("input", {
      type: "checkbox", checked: this.hasAttribute("checked"), disabled: this.off,
      onchange: () => this.changed(),
    });
    this.replaceChildren(Crowd.h("label", {}, this.box, Crowd.h("span", {}, ...this.childNodes)));
  }

  missing() {
    return this.hasAttribute("required") && !this.box.checked ? `Tick “${this.textContent.trim()}” first.` : "";
  }
}

class CrowdRadioGroup extends HTMLElement {
  connectedCallback() {
    this.setAttribute("role", "radiogroup");
    if (!this.hasAttribute("aria-label")) this.setAttribute("aria-label", this.getAttribute("label") || "Choose one");
  }
}

class CrowdRadioButton extends CrowdTick {
  build() {
    const group = this.closest("crowd-radio-group");
    if (group) group.crowdId ??= Crowd.id();
    this.box = Crowd.h("input", {
      type: "radio", name: group ? group.crowdId : this.name, checked: this.hasAttribute("checked"),
      disabled: this.off || group?.hasAttribute("disabled"), onchange: () => this.changed(),
    });
    this.replaceChildren(Crowd.h("label", {}, this.box, Crowd.h("span", {}, ...this.childNodes)));
  }

  /** Left alone, several are no answer: none of them ticked is what only check boxes can mean. */
  get given() {
    const peers = [...document.querySelectorAll("crowd-radio-button")].filter((other) => other.box?.name === this.box.name);
    return peers.length > 1 && !peers.some((other) => other.box.checked) ? undefined : super.given;
  }

  restore(value) {
    this.box.checked = Boolean(value?.[this.state]);
  }

  missing() {
    const group = this.closest("crowd-radio-group");
    if (!group || !(group.hasAttribute("required") || this.hasAttribute("required"))) return "";
    return group.querySelector("input:checked") ? "" : `${group.getAttribute("aria-label")}: choose one first.`;
  }
}

class CrowdButton extends CrowdElement {
  get controls() {
    return [this.button];
  }

  build() {
    const action = this.getAttribute("form-action") || "none";
    this.button = Crowd.h(
      "button",
      {
        type: action === "submit" ? "submit" : "button",
        class: this.getAttribute("variant") === "primary" || action === "submit" ? "primary" : "plain",
        disabled: this.hasAttribute("disabled") || this.hasAttribute("loading"),
        "aria-busy": this.hasAttribute("loading") ? "true" : null,
      },
      ...this.childNodes,
    );
    this.replaceChildren(this.button);
    const link = this.getAttribute("href");
    // A frame's links lead nowhere: the address is shown instead.
    if (link) this.append(Crowd.h("span", { class: "address" }, link));
    if (action !== "none") {
      this.button.addEventListener("click", (event) => {
        event.preventDefault();
        const form = this.closest("crowd-form");
        if (action === "reset") form?.reset();
        else form?.submit();
      });
    }
  }
}
