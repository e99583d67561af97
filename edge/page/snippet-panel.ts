/** “Copy as code”: the page's request in the language that was chosen. */
import { failureText } from "./api.ts";
import { button, byId } from "./elements.ts";
import { type Language, languages, snippet } from "./snippets.ts";

export interface SnippetPanelParts {
  /** Of the request. Throws CallFailure for a field that cannot be read. */
  body(): object;
  key(): string;
}

export class SnippetPanel {
  readonly #parts: SnippetPanelParts;
  readonly #code = byId("code", HTMLElement);
  readonly #chips: HTMLButtonElement[];
  #language: Language = "curl";

  constructor(parts: SnippetPanelParts) {
    this.#parts = parts;
    this.#chips = languages.map((language) =>
      button(language, () => {
        this.#language = language;
        this.draw();
      }),
    );
    byId("languages", HTMLElement).replaceChildren(...this.#chips);
    const copy = byId("copy", HTMLButtonElement);
    copy.addEventListener("click", () => {
      navigator.clipboard.writeText(this.#code.textContent).then(
        () => {
          copy.textContent = "Copied";
        },
        () => {
          copy.textContent = "Select and copy it";
        },
      );
    });
    byId("code-drawer", HTMLDetailsElement).addEventListener("toggle", () => this.draw());
  }

  draw(): void {
    byId("copy", HTMLButtonElement).textContent = "Copy";
    for (const chip of this.#chips) chip.setAttribute("aria-pressed", String(chip.textContent === this.#language));
    try {
      const call = { url: `${location.origin}/v1/completions`, key: this.#parts.key(), body: this.#parts.body() };
      this.#code.textContent = snippet(this.#language, call);
    } catch (error) {
      this.#code.textContent = failureText(error);
    }
  }
}
