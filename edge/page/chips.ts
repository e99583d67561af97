/** Examples as chips, one for each domain that has one; the one that is the prompt is pressed. */
import type { Catalog } from "./catalog.ts";
import { examplesOf } from "./domains.ts";
import { button } from "./elements.ts";

export class ExampleChips {
  readonly #container: HTMLElement;
  #prompt = "";

  constructor(container: HTMLElement, catalog: Catalog, onChoose: (prompt: string) => void) {
    this.#container = container;
    catalog.onChange(() => {
      const chips = examplesOf(catalog.centroids).map(({ name, example }) =>
        button(name, () => onChoose(example), { "data-example": example }),
      );
      container.replaceChildren(...chips);
      this.mark(this.#prompt);
    });
  }

  mark(prompt: string): void {
    this.#prompt = prompt;
    for (const chip of this.#container.querySelectorAll("button")) {
      chip.setAttribute("aria-pressed", String(chip.dataset.example === prompt));
    }
  }
}
