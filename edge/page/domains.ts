/** “Domain” is the page's word for a centroid. A centroid that domains.json does not name is named by its typical tokens. */
import type { CentroidList } from "../../shared/contracts/responses.ts";
import domains from "./domains.json" with { type: "json" };

export type Centroid = CentroidList["data"][number];

export interface Domain {
  name: string;
  example: string | null;
}

/** Domains by their centroid's `label`, joined by spaces. Domains with the most obvious examples come first. */
const known: Record<string, Domain> = domains;

export function domainOf({ label }: Pick<Centroid, "label">): Domain {
  const words = label.map((piece) => piece.trim()).filter(Boolean);
  const joined = words.join(" ");
  if (Object.hasOwn(known, joined)) return known[joined];
  return { name: words.slice(0, 3).join(", ") || "No domain yet", example: null };
}

const anyExample = "It is a truth universally acknowledged, that a single man in possession of a good fortune, must be";

export function examplesOf(centroids: readonly Centroid[]): { name: string; text: string }[] {
  const served = centroids.map(domainOf);
  const found = Object.values(known).filter((domain) => served.includes(domain));
  const shown = found.flatMap(({ name, example }) => (example === null ? [] : [{ name, text: example }]));
  return shown.length > 0 ? shown : [{ name: "Novel", text: anyExample }];
}
