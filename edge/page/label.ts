/** “Classify”: the probability of each of the user's labels for a text. */
import type { ClassifyResponse } from "../../shared/contracts/classify-response.ts";
import { CallFailure } from "./api.ts";
import { drawExamples } from "./catalog-controls.ts";
import { byId, make, onSubmit } from "./elements.ts";
import { contest } from "./experts.ts";
import type { Page } from "./page.ts";

const examples = [
  { name: "Support", text: "The parcel came broken, and I want my money back.", labels: "refund, delivery, praise" },
  { name: "Review", text: "The film is far too long, but I laughed all the way.", labels: "positive, negative" },
  { name: "Topic", text: "The striker scored twice in the last ten minutes.", labels: "sport, politics, cooking" },
];

export function startLabel({ api, catalog, sent }: Page): void {
  const form = byId("label-form", HTMLFormElement);
  const text = byId("label-text", HTMLTextAreaElement);
  const names = byId("label-names", HTMLInputElement);
  const answerer = byId("label-answerer", HTMLSelectElement);
  const result = byId("label-result");
  catalog.onChange(() => {
    const own = catalog.usableAdapters
      .filter(({ hash }) => hash !== null)
      .map(({ name }) => make("option", { value: name }, `${name}: your examples`));
    answerer.replaceChildren(make("option", { value: "auto" }, "The model as it is"), ...own);
  });
  drawExamples(byId("label-examples"), examples, (example) => {
    text.value = example.text;
    names.value = example.labels;
    form.requestSubmit();
  });
  onSubmit(form, byId("label-failure"), result, async () => {
    const input = text.value;
    const labels = names.value.split(",").map((label) => label.trim());
    if (input.trim() === "") throw new CallFailure("Paste a text first.");
    if (labels.length < 2 || labels.includes(""))
      throw new CallFailure("Name two labels or more, with a comma between.");
    sent("label", input);
    const model = `${catalog.baseModel}:${answerer.value}`;
    const { data } = await api.json<ClassifyResponse>("/v1/classify", { model, input, labels });
    const sorted = Object.entries(data[0].probabilities).sort(([, a], [, b]) => b - a);
    const bars = sorted.map(([name, share], place) => ({
      ...{ id: place === 0 ? "mixture" : name, name, share },
      figure: `${Math.round(100 * share)}%`,
    }));
    result.replaceChildren(contest(bars));
  });
}
