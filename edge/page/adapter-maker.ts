/** “Make an adapter”: of pasted examples, with what it gains on those that it was not made from. */

import { limits } from "../../shared/contracts/limits.ts";
import type { Adapter } from "../../shared/contracts/responses.ts";
import type { Api } from "./api.ts";
import type { Catalog } from "./catalog.ts";
import { button, byId, make, submitWith } from "./elements.ts";
import { count, perplexityBesideBase, perplexityInterval } from "./words.ts";

export interface AdapterMakerParts {
  api: Api;
  catalog: Catalog;
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
  readonly #form = byId("adapter-form", HTMLFormElement);
  readonly #name = byId("adapter-name", HTMLInputElement);
  readonly #examples = byId("adapter-examples", HTMLTextAreaElement);
  readonly #result = byId("adapter-result", HTMLElement);

  constructor(parts: AdapterMakerParts) {
    this.#parts = parts;
    this.#form.addEventListener("submit", (event) => {
      event.preventDefault();
      void this.#create();
    });
    this.#examples.addEventListener("input", () => this.#count());
    byId("adapter-sample", HTMLButtonElement).addEventListener("click", () => {
      this.#examples.value = byId("sample-examples", HTMLTemplateElement).content.textContent.trim();
      this.#name.value ||= "recipes";
      this.#count();
    });
    parts.catalog.onChange(() => this.#list());
    this.#count();
  }

  #count(): void {
    const found = examplesIn(this.#examples.value).length;
    byId("adapter-count", HTMLElement).textContent = `${count(found, "example")} of 2 to ${limits.adapterExamples}`;
  }

  async #create(): Promise<void> {
    const { api, catalog } = this.#parts;
    this.#result.textContent = "Making it…";
    await this.#attempt(async () => {
      const body = { name: this.#name.value.trim(), examples: examplesIn(this.#examples.value) };
      const made = await api.json<Adapter>("/v1/adapters", body);
      await catalog.load();
      this.#result.replaceChildren(make("b", {}, `${made.name} is made. `), gainText(made));
    });
  }

  async #remove(name: string): Promise<void> {
    const { api, catalog } = this.#parts;
    await this.#attempt(async () => {
      await api.json(`/v1/adapters/${encodeURIComponent(name)}`, undefined, { method: "DELETE" });
      await catalog.load();
      this.#result.textContent = `${name} is deleted.`;
    });
  }

  async #attempt(action: () => Promise<void>): Promise<void> {
    const failure = byId("adapter-failure", HTMLElement);
    if (!(await submitWith(this.#form, failure, action))) this.#result.textContent = "";
  }

  #list(): void {
    const { catalog, onUse } = this.#parts;
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
    const shown = items.length > 0 ? items : [make("li", { class: "quiet" }, "None yet.")];
    byId("adapter-list", HTMLElement).replaceChildren(...shown);
  }
}
