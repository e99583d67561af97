/** Text of pages that were made to be looked at: what they have in common says nothing of any, and is dropped. */
import type { Document } from "./documents.ts";

/** A line on more than this share of the pages, and on more pages than the number, is navigation. */
const commonShare = 0.15;
const commonPages = 4;

/** Drops lines that many of the pages have; runs of blank lines become one. Documents that nothing is left of go, too. */
export function withoutBoilerplate(documents: readonly Document[]): Document[] {
  const pagesWith = new Map<string, number>();
  for (const { text } of documents) {
    for (const line of new Set(text.split("\n").map(spacesAside))) pagesWith.set(line, (pagesWith.get(line) ?? 0) + 1);
  }
  const most = Math.max(commonPages, commonShare * documents.length);
  const common = (line: string) => line !== "" && pagesWith.get(line)! > most;
  return documents.flatMap(({ name, text }) => {
    const lines = text.split("\n").filter((line) => !common(spacesAside(line)));
    const left = lines
      .map((line) => line.trimEnd())
      .join("\n")
      .replace(/\n{3,}/g, "\n\n")
      .trim();
    return left ? [{ name, text: `${left}\n` }] : [];
  });
}

function spacesAside(line: string): string {
  return line.replace(/\s+/g, " ").trim();
}
