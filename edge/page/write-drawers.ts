/** The drawers of “Continue”: sampling fields, one for each that the API takes, and the page's request as code. */
import { failureText } from "./api.ts";
import { button, byId, make } from "./elements.ts";
import { type FieldTexts, samplingFields } from "./request.ts";
import { type Language, languages, snippet } from "./snippets.ts";

/** Draws the sampling fields, which begin with `texts`. */
export function drawSamplingFields(texts: FieldTexts, onChange: (texts: FieldTexts) => void): void {
  const inputs = new Map<string, HTMLInputElement | HTMLTextAreaElement>();
  for (const { name, label, hint, range } of samplingFields) {
    const attributes = { id: `sampling-${name}`, "aria-describedby": `hint-${name}`, spellcheck: "false" };
    const input = make(name === "stop" ? "textarea" : "input", { ...attributes, rows: 2, autocomplete: "off" });
    input.value = texts[name] ?? "";
    input.addEventListener("input", () =>
      onChange(Object.fromEntries([...inputs].map(([field, { value }]) => [field, value]))),
    );
    inputs.set(name, input);
    const hintText = make("small", { id: `hint-${name}` }, range ? `${hint}. ${rangeText(range)}` : hint);
    const title = make("label", { for: input.id }, label);
    byId("sampling").append(make("div", { class: "field" }, title, input, hintText));
  }
}

function rangeText({ min, max }: { min: number; max: number }): string {
  return max >= 4096 ? `From ${min}` : `${min} to ${max}`.replaceAll("-", "−");
}

export interface CodeDrawerParts {
  /** Of the request. Throws CallFailure for a field that cannot be read. */
  body(): object;
  key(): string;
}

export class CodeDrawer {
  readonly #parts: CodeDrawerParts;
  readonly #code = byId("code");
  readonly #copy = byId("copy", HTMLButtonElement);
  readonly #chips: HTMLButtonElement[];
  #language: Language = "curl";

  constructor(parts: CodeDrawerParts) {
    this.#parts = parts;
    this.#chips = languages.map((language) =>
      button(language, () => {
        this.#language = language;
        this.draw();
      }),
    );
    byId("languages").replaceChildren(...this.#chips);
    this.#copy.addEventListener("click", async () => {
      const isCopied = await navigator.clipboard.writeText(this.#code.textContent).then(
        () => true,
        () => false,
      );
      this.#copy.textContent = isCopied ? "Copied" : "Select and copy it";
    });
    byId("code-drawer", HTMLDetailsElement).addEventListener("toggle", () => this.draw());
  }

  draw(): void {
    this.#copy.textContent = "Copy";
    for (const chip of this.#chips) chip.setAttribute("aria-pressed", String(chip.textContent === this.#language));
    try {
      const call = { url: `${location.origin}/v1/completions`, key: this.#parts.key(), body: this.#parts.body() };
      this.#code.textContent = snippet(this.#language, call);
    } catch (error) {
      this.#code.textContent = failureText(error);
    }
  }
}
