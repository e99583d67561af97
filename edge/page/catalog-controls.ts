import type { Catalog } from "./catalog.ts";
import { type Centroid, domainOf } from "./domains.ts";
import { button, make, roveFocus } from "./elements.ts";
import type { SettingsStore } from "./settings.ts";
import { surpriseChange } from "./words.ts";

type Choices = readonly (readonly [string, string])[];

/** Fills `select` after each load of the catalog, and keeps the chosen value if it still exists. `first`: pairs of value and name. */
export function fillAnswerers(select: HTMLSelectElement, catalog: Catalog, first: Choices): void {
  const draw = () => {
    const chosen = select.dataset.wanted ?? select.value;
    const options = (entries: Choices) => entries.map(([value, name]) => make("option", { value }, name));
    const group = (label: string, entries: Choices) =>
      entries.length > 0 ? [make("optgroup", { label }, ...options(entries))] : [];
    const own = catalog.usableAdapters.map(({ name }) => [name, name] as const);
    const domains = catalog.centroids.map((one) => [one.id, `${domainOf(one).name}${gainOf(one)}`] as const);
    select.replaceChildren(...options(first), ...group("Your text", own), ...group("One kind of text alone", domains));
    select.value = [...select.options].some(({ value }) => value === chosen) ? chosen : first[0][0];
  };
  catalog.onChange(draw);
  draw();
}

function gainOf({ auto_off, gain }: Centroid): string {
  if (auto_off) return " (off: the base)";
  return gain ? ` (${surpriseChange(gain.nats)})` : "";
}

export interface Example {
  name: string;
  text: string;
}

/** The Tab key reaches the examples as one group; arrow keys move among them. */
export function drawExamples<E extends Example>(
  container: HTMLElement,
  examples: readonly E[],
  onChoose: (example: E) => void,
): void {
  container.replaceChildren(
    ...examples.map((example, i) => {
      const attributes = { title: example.text, "data-text": example.text, tabindex: i === 0 ? 0 : -1 };
      return button(example.name, () => onChoose(example), attributes);
    }),
  );
  if (container.dataset.roves === undefined) roveFocus(container, "button");
  container.dataset.roves = "";
}

export function offerRecent(input: HTMLTextAreaElement, settings: SettingsStore): void {
  const select = make("select", { class: "recent", "aria-label": "Recent texts" });
  const draw = () => {
    const options = settings.current.recent.map((text, i) => make("option", { value: i }, text.slice(0, 60)));
    select.replaceChildren(make("option", { value: "" }, "Recent"), ...options);
    select.hidden = options.length === 0;
  };
  select.addEventListener("change", () => {
    input.value = settings.current.recent[Number(select.value)] ?? "";
    select.value = "";
    input.dispatchEvent(new Event("input"));
    input.focus();
  });
  settings.onChange(draw);
  draw();
  input.form!.querySelector(".row")!.append(select);
}
