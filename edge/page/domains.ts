/**
 * What the page calls centroids: domains, by names that people use. Those of the artifacts that come with the project are known by their
 * characteristic tokens; others are named by these tokens.
 */
import type { CentroidList } from "../../shared/contracts/responses.ts";
import domains from "./domains.json" with { type: "json" };

export type Centroid = CentroidList["data"][number];

export interface Domain {
  name: string;
  /** A prompt of this kind; null where none is known. */
  example: string | null;
}

/** By the tokens that `/v1/centroids` calls its label; the plainest to see comes first. */
const known: Record<string, Domain> = domains;

export function domainOf({ label }: Pick<Centroid, "label">): Domain {
  const words = label.map((piece) => piece.trim()).filter(Boolean);
  const joined = words.join(" ");
  if (Object.hasOwn(known, joined)) return known[joined];
  return { name: words.slice(0, 3).join(", ") || "No domain yet", example: null };
}

/** Where no known domain is served. */
const anyExample = "It is a truth universally acknowledged, that a single man in possession of a good fortune, must be";

/** Domains that have an example, in the order of domains.json. */
export function examplesOf(centroids: readonly Centroid[]): { name: string; text: string }[] {
  const served = centroids.map(domainOf);
  const found = Object.values(known).filter((domain) => served.includes(domain));
  const shown = found.flatMap(({ name, example }) => (example === null ? [] : [{ name, text: example }]));
  return shown.length > 0 ? shown : [{ name: "Novel", text: anyExample }];
}
