/** The drawer of sampling fields: one for each that the API takes. */
import { make } from "./elements.ts";
import { type FieldTexts, samplingFields } from "./request.ts";

export class SamplingDrawer {
  readonly #container: HTMLElement;
  readonly #inputs = new Map<string, HTMLInputElement | HTMLTextAreaElement>();

  constructor(container: HTMLElement, texts: FieldTexts, onChange: (texts: FieldTexts) => void) {
    this.#container = container;
    for (const { name, label, hint, range } of samplingFields) {
      const attributes = {
        id: `sampling-${name}`,
        "aria-describedby": `hint-${name}`,
        autocomplete: "off",
        spellcheck: "false",
      };
      const input =
        name === "stop"
          ? make("textarea", { ...attributes, rows: 2 })
          : make("input", { ...attributes, inputmode: range ? "decimal" : "text" });
      input.addEventListener("input", () => onChange(this.texts));
      input.value = texts[name] ?? "";
      this.#inputs.set(name, input);
      const field = make("div", { class: "field" }, make("label", { for: input.id }, label), input);
      field.append(make("small", { id: `hint-${name}` }, range ? `${hint}. ${rangeText(range)}` : hint));
      this.#container.append(field);
    }
  }

  get texts(): FieldTexts {
    return Object.fromEntries([...this.#inputs].map(([name, input]) => [name, input.value]));
  }
}

function rangeText({ least, most }: { least: number; most: number }): string {
  return most >= 4096 ? `From ${least}` : `${least} to ${most}`.replaceAll("-", "−");
}
