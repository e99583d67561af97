/** Controls that offer what the catalogue holds: the select of who answers, and the examples. */
import type { Catalog } from "./catalog.ts";
import { domainOf, examplesOf } from "./domains.ts";
import { button, make } from "./elements.ts";

/** Value and name. */
type Choices = readonly (readonly [string, string])[];

/**
 * Fills `select` with `first`, then the key's own adapters, then the domains, and again after each load of the catalogue. What was
 * chosen stays chosen while it is there.
 */
export function fillAnswerers(select: HTMLSelectElement, catalog: Catalog, first: Choices): void {
  const draw = () => {
    const chosen = select.dataset.wanted ?? select.value;
    const options = (entries: Choices) => entries.map(([value, name]) => make("option", { value }, name));
    const group = (label: string, entries: Choices) =>
      entries.length > 0 ? [make("optgroup", { label }, ...options(entries))] : [];
    select.replaceChildren(
      ...options(first),
      ...group(
        "Your text",
        catalog.usableAdapters.map(({ name }) => [name, name]),
      ),
      ...group(
        "One domain alone",
        catalog.centroids.map((one) => [one.id, domainOf(one).name + (one.auto_off ? " (off: the base)" : "")]),
      ),
    );
    const isThere = [...select.options].some(({ value }) => value === chosen);
    select.value = isThere ? chosen : first[0][0];
  };
  catalog.onChange(draw);
  draw();
}

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
