/**
 * The kinds of text that memories are measured on. Ten served to develop the method, and fit how memories count; twelve are fresh: neither
 * that fit nor any adapter has seen them.
 */
import { createHash } from "node:crypto";
import { positionsOfEvidence } from "../../../shared/math/evidence.ts";
import { brakePositions } from "../../../shared/math/memory.ts";
import { type Document, splitDocuments } from "../../training/corpus/documents.ts";
import { type LockedCorpus, readLock, readLocked } from "../../training/corpus/lock.ts";
import { cutTexts, type Text, type TextTokenizer, tokensOf } from "../texts.ts";

/** development: each is measured under the fit of the others. */
export const groups = ["development", "fresh"] as const;
export type Group = (typeof groups)[number];

export const developmentKinds = [
  ...["gsm8k", "httpd-manual-turkish", "postgresql-manual", "webster-dictionary", "go-programs", "moby-dick"],
  ...["jargon-file", "german-fortunes", "anarchist-faq", "licences"],
];
const freshCount = 12;

export const promptTokens = 64;
export const scoredTokens = 96;
/** Positions of a text whose next token is read, [P]: those that choose the brakes, then those that are scored. */
export const evidencePositions = positionsOfEvidence(promptTokens, undefined, brakePositions);
export const readPositions = [
  ...evidencePositions,
  ...Array.from({ length: scoredTokens }, (_, i) => promptTokens - 1 + i),
];

/** Known tokens that memories are measured with; each is the beginning of the next. */
export const knownSizes: Record<Group, readonly number[]> = {
  development: [1000, 4000, 16_000],
  fresh: [1000, 4000, 6000],
};

/** Known tokens that other methods are compared with memories at. */
export function comparedSize(group: Group): number {
  return Math.max(...knownSizes[group]);
}

/** Tokens of each known excerpt, which is also the passage that goes into a prompt. */
export const excerptTokens = 256;
const leastExcerptTokens = 16;

/** A kind of text: excerpts that a memory is made of, and texts of other documents. */
export interface Kind {
  group: Group;
  name: string;
  /** Up to 256 tokens each; one of each document in drawn order, then a second of each, and so on. */
  known: Text[];
  /** 64 tokens of prompt and 96 that are scored. */
  texts: Text[];
}

/** Names of the fresh kinds: of the corpora that no adapter is trained on and nothing was chosen with, those lowest by SHA-256 of their names. */
export function freshKinds(corpora: readonly Pick<LockedCorpus, "name" | "role">[]): string[] {
  const hashOf = (name: string) => createHash("sha256").update(name).digest("hex");
  const candidates = corpora.filter(({ role }) => role === "new" || role === "left-out").map(({ name }) => name);
  return candidates.toSorted((a, b) => (hashOf(a) < hashOf(b) ? -1 : 1)).slice(0, freshCount);
}

/** Reads the kinds from the fetched corpora of the lock. */
export async function lockedKinds(folder: string, tokenizer: TextTokenizer, texts: number): Promise<Kind[]> {
  const { lock } = await readLock();
  const read: Kind[] = [];
  const names = { development: developmentKinds, fresh: freshKinds(lock.corpora) };
  for (const group of groups) {
    for (const name of names[group]) {
      const { documents } = await readLocked(lock, name, folder);
      const isTrained = lock.corpora.find((corpus) => corpus.name === name)!.role === "training";
      read.push(kindOf(group, name, documents, { isTrained, tokenizer, texts }));
    }
  }
  return read;
}

/**
 * Known excerpts are of the documents of the training split, texts of test documents; of validation documents, too, where no adapter
 * chose by them.
 */
export function kindOf(
  group: Group,
  name: string,
  documents: readonly Document[],
  { isTrained, tokenizer, texts }: { isTrained: boolean; tokenizer: TextTokenizer; texts: number },
): Kind {
  const splits = splitDocuments(name, documents);
  const known = documents.filter((_, i) => splits[i] === "train");
  const held = documents.filter((_, i) => splits[i] === "test" || (!isTrained && splits[i] === "validation"));
  const most = comparedSize(group);
  const excerpts = excerptsOf(known, tokenizer, most);
  if (tokensOf(excerpts) <= most - leastExcerptTokens) {
    throw new Error(`${name} has ${tokensOf(excerpts)} tokens to know; ${most} are measured`);
  }
  const tokens = promptTokens + scoredTokens;
  return {
    ...{ group, name, known: excerpts },
    texts: cutTexts(held, tokenizer, texts, { tokens, least: tokens }),
  };
}

/** Excerpts of `tokens` tokens together, or of all that the documents have. */
function excerptsOf(documents: readonly Document[], tokenizer: TextTokenizer, tokens: number): Text[] {
  const cut = { tokens: excerptTokens, least: leastExcerptTokens };
  for (let count = Math.ceil(tokens / excerptTokens); ; count *= 2) {
    const excerpts = firstTokens(cutTexts(documents, tokenizer, count, cut), tokens);
    if (excerpts.length < count || tokensOf(excerpts) >= tokens) return excerpts;
  }
}

/** The first `tokens` tokens of the texts, the last of them cut short. */
export function firstTokens<T extends Text>(texts: readonly T[], tokens: number): T[] {
  const result: T[] = [];
  let left = tokens;
  for (const text of texts) {
    if (left < leastExcerptTokens) break;
    result.push({ ...text, ids: text.ids.slice(0, left) });
    left -= Math.min(left, text.ids.length);
  }
  return result;
}

/** The tokens that came at the positions that are read, [texts × P]. */
export function targetsOf(texts: readonly Text[]): Int32Array {
  return Int32Array.from(texts.flatMap(({ ids }) => readPositions.map((t) => ids[t + 1])));
}
