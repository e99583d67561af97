/** “Fit an adapter to examples”: pasted ones, with what it gains on those that it was not made from. */

import { limits } from "../../shared/contracts/limits.ts";
import type { Adapter } from "../../shared/contracts/responses.ts";
import type { Api } from "./api.ts";
import type { Catalog } from "./catalog.ts";
import { byId, make, submitWith } from "./elements.ts";
import { gainText } from "./own-adapters.ts";
import { count } from "./words.ts";

export interface AdapterMakerParts {
  api: Api;
  catalog: Catalog;
}

/** Texts between empty lines. */
function examplesIn(text: string): string[] {
  return text
    .split(/\n\s*\n/)
    .map((example) => example.trim())
    .filter(Boolean);
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
    this.#count();
  }

  #count(): void {
    const found = examplesIn(this.#examples.value).length;
    byId("adapter-count", HTMLElement).textContent = `${count(found, "example")} of 2 to ${limits.adapterExamples}`;
  }

  async #create(): Promise<void> {
    const { api, catalog } = this.#parts;
    this.#result.textContent = "Making it…";
    const isMade = await submitWith(this.#form, byId("adapter-failure", HTMLElement), async () => {
      const body = { name: this.#name.value.trim(), examples: examplesIn(this.#examples.value) };
      const made = await api.json<Adapter>("/v1/adapters", body);
      await catalog.load();
      this.#result.replaceChildren(make("b", {}, `${made.name} is made. `), gainText(made));
    });
    if (!isMade) this.#result.textContent = "";
  }
}
