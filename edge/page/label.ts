/** “Label”: which of the reader's labels fits a text, and how sure that is. */
import type { ClassifyResponse } from "../../shared/contracts/classify-response.ts";
import { type Api, CallFailure } from "./api.ts";
import type { Catalog } from "./catalog.ts";
import { byId, make, submitWith } from "./elements.ts";

export class Label {
  readonly #api: Pick<Api, "json">;
  readonly #catalog: Catalog;
  readonly #form = byId("label-form", HTMLFormElement);
  readonly #answerer = byId("label-answerer", HTMLSelectElement);
  readonly #result = byId("label-result", HTMLElement);

  constructor({ api, catalog }: { api: Pick<Api, "json">; catalog: Catalog }) {
    this.#api = api;
    this.#catalog = catalog;
    const own = () =>
      catalog.usableAdapters
        .filter(({ hash }) => hash !== null)
        .map(({ name }) => make("option", { value: name }, `${name}: your examples`));
    catalog.onChange(() => {
      this.#answerer.replaceChildren(make("option", { value: "auto" }, "The model as it is"), ...own());
    });
    this.#form.addEventListener("submit", (event) => {
      event.preventDefault();
      void this.#run();
    });
  }

  async #run(): Promise<void> {
    const done = await submitWith(this.#form, byId("label-failure", HTMLElement), () => this.#label());
    this.#result.hidden = !done;
  }

  async #label(): Promise<void> {
    const input = byId("label-text", HTMLTextAreaElement).value;
    const labels = byId("label-names", HTMLInputElement)
      .value.split(",")
      .map((label) => label.trim());
    if (input.trim() === "") throw new CallFailure("Paste a text first.");
    if (labels.length < 2 || labels.includes(""))
      throw new CallFailure("Name two labels or more, with a comma between.");
    const model = `${this.#catalog.baseModel}:${this.#answerer.value}`;
    const { data } = await this.#api.json<ClassifyResponse>("/v1/classify", { model, input, labels });
    const sorted = Object.entries(data[0].probabilities).sort(([, a], [, b]) => b - a);
    const bars = sorted.map(([label, p], place) => {
      const bar = make("i", { class: "contest-bar", "aria-hidden": "true" });
      bar.style.width = `${100 * p}%`;
      const contestant = place === 0 ? "mixture" : label;
      return make(
        "li",
        { "data-contestant": contestant },
        make("span", {}, label),
        make("b", {}, `${Math.round(100 * p)}%`),
        bar,
      );
    });
    this.#result.replaceChildren(make("ul", { class: "contest" }, ...bars));
  }
}
