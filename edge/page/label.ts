/** “Classify”: which of the reader's labels fits a text, and how sure that is. */
import type { ClassifyResponse } from "../../shared/contracts/classify-response.ts";
import { CallFailure } from "./api.ts";
import { drawExamples } from "./catalog-controls.ts";
import { byId, make, submitWith } from "./elements.ts";
import { contest } from "./experts.ts";
import type { Page } from "./page.ts";

const examples = [
  { name: "Support", text: "The parcel came broken, and I want my money back.", labels: "refund, delivery, praise" },
  { name: "Review", text: "The film is far too long, but I laughed all the way.", labels: "positive, negative" },
  { name: "Topic", text: "The striker scored twice in the last ten minutes.", labels: "sport, politics, cooking" },
];

export class Label {
  readonly #page: Page;
  readonly #form = byId("label-form", HTMLFormElement);
  readonly #text = byId("label-text", HTMLTextAreaElement);
  readonly #names = byId("label-names", HTMLInputElement);
  readonly #answerer = byId("label-answerer", HTMLSelectElement);
  readonly #result = byId("label-result");

  constructor(page: Page) {
    this.#page = page;
    const { catalog } = page;
    catalog.onChange(() => {
      const own = catalog.usableAdapters
        .filter(({ hash }) => hash !== null)
        .map(({ name }) => make("option", { value: name }, `${name}: your examples`));
      this.#answerer.replaceChildren(make("option", { value: "auto" }, "The model as it is"), ...own);
    });
    drawExamples(byId("label-examples"), examples, ({ text, labels }) => {
      this.#text.value = text;
      this.#names.value = labels;
      this.#form.requestSubmit();
    });
    this.#form.addEventListener("submit", (event) => {
      event.preventDefault();
      void this.#run();
    });
  }

  async #run(): Promise<void> {
    this.#result.hidden = true;
    const failure = byId("label-failure");
    this.#result.hidden = !(await submitWith(this.#form, failure, () => this.#label()));
  }

  async #label(): Promise<void> {
    const input = this.#text.value;
    const labels = this.#names.value.split(",").map((label) => label.trim());
    if (input.trim() === "") throw new CallFailure("Paste a text first.");
    if (labels.length < 2 || labels.includes(""))
      throw new CallFailure("Name two labels or more, with a comma between.");
    const { api, catalog, sent } = this.#page;
    sent("label", input);
    const model = `${catalog.baseModel}:${this.#answerer.value}`;
    const { data } = await api.json<ClassifyResponse>("/v1/classify", { model, input, labels });
    const sorted = Object.entries(data[0].probabilities).sort(([, a], [, b]) => b - a);
    const bars = sorted.map(([name, share], place) => ({
      ...{ id: place === 0 ? "mixture" : name, name, share },
      figure: `${Math.round(100 * share)}%`,
    }));
    this.#result.replaceChildren(contest(bars));
  }
}
