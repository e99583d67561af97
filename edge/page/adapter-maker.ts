/** “Make an adapter”: of pasted examples, with what it gains on those that it was not made from. */

import { limits } from "../../shared/contracts/limits.ts";
import type { Adapter } from "../../shared/contracts/responses.ts";
import type { Api } from "./api.ts";
import type { Catalog } from "./catalog.ts";
import { button, make, submitWith } from "./elements.ts";
import { count, perplexityBesideBase, perplexityInterval } from "./words.ts";

export interface AdapterMakerParts {
  api: Api;
  catalog: Catalog;
  form: HTMLFormElement;
  name: HTMLInputElement;
  examples: HTMLTextAreaElement;
  counted: HTMLElement;
  result: HTMLElement;
  failure: HTMLElement;
  list: HTMLElement;
  onUse(name: string): void;
}

/** Texts between empty lines. */
export function examplesIn(text: string): string[] {
  return text
    .split(/\n\s*\n/)
    .map((example) => example.trim())
    .filter(Boolean);
}

/** What an adapter gains, in words. */
export function gainText({ gain, message, outdated }: Adapter): string {
  if (outdated) return "It was made for artifacts that are not served any more: make it again.";
  if (!gain) return message ?? "It gains nothing, so the base answers.";
  return `On ${count(gain.tokens, "token")} of examples that it was not made from: ${perplexityBesideBase(gain.nats)} (95% interval: ${perplexityInterval(gain.ci95)}).`;
}

export class AdapterMaker {
  readonly #parts: AdapterMakerParts;

  constructor(parts: AdapterMakerParts) {
    this.#parts = parts;
    parts.form.addEventListener("submit", (event) => {
      event.preventDefault();
      void this.#create();
    });
    parts.examples.addEventListener("input", () => this.count());
    parts.catalog.onChange(() => this.#list());
    this.count();
  }

  count(): void {
    const found = examplesIn(this.#parts.examples.value).length;
    this.#parts.counted.textContent = `${count(found, "example")} of 2 to ${limits.adapterExamples}`;
  }

  async #create(): Promise<void> {
    const { api, catalog, name, examples, result } = this.#parts;
    result.textContent = "Making it…";
    await this.#attempt(async () => {
      const body = { name: name.value.trim(), examples: examplesIn(examples.value) };
      const made = await api.json<Adapter>("/v1/adapters", body);
      await catalog.load();
      result.replaceChildren(make("b", {}, `${made.name} is made. `), gainText(made));
    });
  }

  async #remove(name: string): Promise<void> {
    const { api, catalog, result } = this.#parts;
    await this.#attempt(async () => {
      await api.json(`/v1/adapters/${encodeURIComponent(name)}`, undefined, { method: "DELETE" });
      await catalog.load();
      result.textContent = `${name} is deleted.`;
    });
  }

  async #attempt(action: () => Promise<void>): Promise<void> {
    const { failure, result, form } = this.#parts;
    if (!(await submitWith(form, failure, action))) result.textContent = "";
  }

  #list(): void {
    const { catalog, list, onUse } = this.#parts;
    const items = catalog.adapters.map((adapter) => {
      const use = adapter.outdated
        ? []
        : [button("Write with it", () => onUse(adapter.name), { "aria-label": `Write with it: ${adapter.name}` })];
      const remove = button("Delete", () => void this.#remove(adapter.name), {
        "aria-label": `Delete: ${adapter.name}`,
      });
      return make(
        "li",
        {},
        make("b", {}, adapter.name),
        make("p", { class: "quiet" }, gainText(adapter)),
        make("p", { class: "actions" }, ...use, remove),
      );
    });
    list.replaceChildren(...(items.length > 0 ? items : [make("li", { class: "quiet" }, "None yet.")]));
  }
}

/** Examples to try it with: a kind of text that the model does not know. */
export const sampleExamples = [
  "Leek soup. Slice 3 leeks and 2 potatoes. Fry gently in butter for 10 min. Add 1 l stock. Simmer 20 min. Blend. Salt, pepper, cream.",
  "Plain omelette. Beat 3 eggs with salt. Melt butter in a hot pan. Pour in. Stir 10 s. Fold. Serve at once.",
  "Roast carrots. Peel 6 carrots. Toss in oil, salt, cumin. Roast 25 min at 200 C. Add lemon, parsley. Serve warm.",
  "Rice pudding. Simmer 100 g rice in 1 l milk, 40 min. Add sugar, vanilla, salt. Stir. Cool. Serve with jam.",
  "Tomato sauce. Fry 2 onions, 2 cloves garlic in oil. Add 800 g tomatoes, basil, salt. Simmer 30 min. Blend.",
  "Bean salad. Drain 2 tins beans. Slice 1 onion. Mix with oil, vinegar, salt, pepper, parsley. Chill 1 h. Serve.",
  "Apple cake. Beat 2 eggs with 150 g sugar. Add 200 g flour, butter. Fold in 3 apples. Bake 40 min at 180 C. Cool.",
  "Lentil stew. Fry 1 onion, 2 carrots. Add 250 g lentils, 1 l stock, bay. Simmer 35 min. Salt, vinegar. Serve.",
  "Garlic bread. Mix 80 g butter, 3 cloves garlic, parsley, salt. Slice bread. Spread. Bake 12 min at 200 C.",
  "Mushroom toast. Fry 300 g mushrooms in butter, 8 min. Add garlic, thyme, cream, salt. Toast bread. Pile on. Serve.",
  "Pancakes. Beat 2 eggs, 200 g flour, 400 ml milk, salt. Rest 20 min. Fry in butter, 1 min a side. Serve with sugar.",
  "Fish pie. Poach 500 g fish in milk, 8 min. Make sauce with butter, flour, milk. Top with mash. Bake 30 min at 190 C.",
].join("\n\n");
