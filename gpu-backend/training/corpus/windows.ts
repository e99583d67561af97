/** A window's first 64 tokens, the prefix, assign it to a centroid. Later tokens are scored. */
import type { Random } from "../random.ts";

export const prefixTokens = 64;
export const windowTokens = 256;
/** Minimum tokens after the prefix of a document's last window. */
const minScoredTokens = 16;

export interface Window {
  corpus: number;
  /** Index of the document in its corpus. */
  document: number;
  tokenIds: Int32Array; // at most `windowTokens`, a view of the document's ids
  isWithheld?: boolean;
}

export function scoredTokens(window: Window): number {
  return window.tokenIds.length - prefixTokens;
}

export function prefixOf(window: Window): Int32Array {
  return window.tokenIds.subarray(0, prefixTokens);
}

export function documentKey({ corpus, document }: Window): string {
  return `${corpus}/${document}`;
}

/** Tokens after the prefix, [scoredTokens]. The hidden state of the position before a token predicts the token. */
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

/** Takes equally many windows of each corpus. Larger corpora give what a small corpus lacks. Keeps the windows' order. */
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
