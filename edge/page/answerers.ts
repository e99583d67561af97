/** The select that says who answers, filled from the catalogue, wherever there is one. */
import type { Catalog } from "./catalog.ts";
import { domainOf } from "./domains.ts";
import { make } from "./elements.ts";

interface Choices {
  /** Offered before the domains: value and name. */
  first: readonly (readonly [string, string])[];
}

/** Keeps `select` in step with the catalogue; what was chosen stays chosen where it is still there. */
export function fillAnswerers(select: HTMLSelectElement, catalog: Catalog, { first }: Choices): void {
  const draw = () => {
    const chosen = select.dataset.wanted ?? select.value;
    const options = (entries: readonly (readonly [string, string])[]) =>
      entries.map(([value, name]) => make("option", { value }, name));
    const group = (label: string, entries: readonly (readonly [string, string])[]) =>
      entries.length > 0 ? [make("optgroup", { label }, ...options(entries))] : [];
    select.replaceChildren(
      ...options(first),
      ...group(
        "Your adapters",
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
