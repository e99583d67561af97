/**
 * Windows: stretches of a document, the unit of training and evaluation. The first `prefixTokens` assign a window to
 * its centroid, the tokens after them are predicted and scored. Windows never overlap and never cross documents.
 */
import type { Random } from "../random.ts";

export const prefixTokens = 64;
export const windowTokens = 256;
/** A document's last, shorter window is kept when it scores at least this many tokens. */
const minScoredTokens = 16;

export interface Window {
  corpus: number;
  /** Index of the document within its corpus. */
  document: number;
  /** Up to `windowTokens` ids. */
  tokenIds: Int32Array;
}

/** Targets of a window: every token after the prefix. */
export function scoredTokens(window: Window): number {
  return window.tokenIds.length - prefixTokens;
}

export function prefixOf(window: Window): Int32Array {
  return window.tokenIds.subarray(0, prefixTokens);
}

/** The same for all windows of a document, and for no others. */
export function documentKey({ corpus, document }: Window): string {
  return `${corpus}/${document}`;
}

/** The ids that are predicted, [scoredTokens]; the hidden state one position earlier predicts each. */
export function targetsOf(window: Window): Int32Array {
  return window.tokenIds.subarray(prefixTokens);
}

export function windowsOf(corpus: number, document: number, tokenIds: Int32Array): Window[] {
  const windows: Window[] = [];
  for (let start = 0; start + prefixTokens + minScoredTokens <= tokenIds.length; start += windowTokens) {
    windows.push({ corpus, document, tokenIds: tokenIds.subarray(start, start + windowTokens) });
  }
  return windows;
}

/** Draws at most `limit` windows in their order, as many of each corpus; other corpora make up for one that has fewer. */
export function sampleWindows(windows: readonly Window[], limit: number, random: Random): Window[] {
  if (windows.length <= limit) return [...windows];
  const chosen = new Set<Window>();
  let left = limit;
  const byCorpus = Map.groupBy(windows, ({ corpus }) => corpus);
  const smallestFirst = [...byCorpus.values()].sort((a, b) => a.length - b.length);
  for (const [index, list] of smallestFirst.entries()) {
    const share = Math.floor(left / (smallestFirst.length - index));
    for (const window of random.shuffled(list).slice(0, share)) chosen.add(window);
    left -= Math.min(share, list.length);
  }
  return windows.filter((window) => chosen.has(window));
}
