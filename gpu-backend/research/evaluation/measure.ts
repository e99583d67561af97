/** Scores sources after prompts of several lengths and compares the methods on the same tokens. */
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import type { Tokenizer } from "../../../shared/tokenizer/tokenizer.ts";
import { nullIfMissing, writeWhole } from "../../files.ts";
import { keyOf } from "../../training/prepare.ts";
import type { Progress } from "../../training/progress.ts";
import {
  type Comparison,
  comparisons,
  type Estimate,
  type Evaluation,
  type EvaluationMean,
  type EvaluationRow,
  type methods,
  type TokenClass,
  tokenClasses,
} from "./data.ts";
import type { Scorer, Scores } from "./scorer.ts";
import type { Source } from "./sources.ts";
import { difference, overSources, type TextSum, worstOf } from "./statistics.ts";
import { promptLengths, scoredTokens, type Text } from "./texts.ts";

export interface MeasureOptions {
  tokenizer: Pick<Tokenizer, "pieceOf">;
  /** Everything besides the texts that scores depend on. */
  cacheKey: readonly unknown[];
  /** Where finished parts are kept. */
  cacheDirectory: string;
  progress: Progress;
  signal?: AbortSignal;
}

/** Texts of one source after prompts of one length, with their scores. */
interface Cell {
  source: Source;
  prompt: number;
  scores: Scores;
}

/** Throws the signal's reason when aborted; finished cells stay in the cache. */
export async function measureSources(
  sources: readonly Source[],
  scorer: Pick<Scorer, "score">,
  options: MeasureOptions,
): Promise<Pick<Evaluation, "rows" | "means">> {
  const { progress, signal } = options;
  const cells: Cell[] = [];
  progress.stage("texts", sources.length * promptLengths.length);
  for (const source of sources) {
    for (const prompt of promptLengths) {
      signal?.throwIfAborted();
      cells.push({ source, prompt, scores: await cachedScores(source, prompt, scorer, options) });
      progress.advance(cells.length, `${source.name}, ${prompt}`);
    }
  }
  const { tokenizer } = options;
  return { rows: cells.map((cell) => rowOf(cell, tokenizer)), means: meansOf(cells, tokenizer) };
}

async function cachedScores(
  { texts }: Source,
  prompt: number,
  scorer: Pick<Scorer, "score">,
  { cacheKey, cacheDirectory }: MeasureOptions,
): Promise<Scores> {
  const path = join(cacheDirectory, `scores-${keyOf(...cacheKey, prompt, texts)}.json`);
  const cached = await readFile(path, "utf8").catch(nullIfMissing);
  if (cached !== null) return JSON.parse(cached) as Scores;
  const scores = await scorer.score(texts, prompt);
  await writeWhole(
    path,
    JSON.stringify(scores, (_, value) => (value instanceof Float32Array ? [...value] : value)),
  );
  return scores;
}

/** For each text the sum of a comparison's gains over the tokens of a class, and their number. */
function gainsOf({ source, prompt, scores }: Cell, of: Comparison, isCounted: ClassTest = () => true): TextSum[] {
  const [method, than = "base"] = of.split(" over ") as (typeof methods)[number][];
  return source.texts.map((text, i) => {
    let [sum, tokens] = [0, 0];
    for (let n = 0; n < scoredTokens; n++) {
      if (!isCounted(text, n, prompt)) continue;
      sum += scores[method][i][n] - scores[than][i][n];
      tokens++;
    }
    return { document: text.document, tokens, sum };
  });
}

/** Whether the scored token at `place` of a text is of a class. */
type ClassTest = (text: Text, place: number, prompt: number) => boolean;

function classTests(tokenizer: Pick<Tokenizer, "pieceOf">): Record<TokenClass, ClassTest> {
  const idAt = ({ ids }: Text, place: number) => ids[ids.length - scoredTokens + place];
  const isInPrompt: ClassTest = (text, place, prompt) => {
    const end = text.ids.length - scoredTokens;
    return text.ids.slice(end - prompt, end).includes(idAt(text, place));
  };
  return {
    "no white space": (text, place) => new TextDecoder().decode(tokenizer.pieceOf(idAt(text, place))).trim().length > 0,
    "in the prompt": isInPrompt,
    "not in the prompt": (...token) => !isInPrompt(...token),
  };
}

function rowOf(cell: Cell, tokenizer: Pick<Tokenizer, "pieceOf">): EvaluationRow {
  const { source, prompt } = cell;
  const { kind, name, texts } = source;
  const differences = byComparison((of) => difference(gainsOf(cell, of)));
  return {
    ...{ kind, name, prompt },
    documents: new Set(texts.map(({ document }) => document)).size,
    texts: texts.length,
    base: baseOf(cell, tokenizer),
    gains: byComparison((of) => differences[of].nats),
    worst: byComparison((of) => differences[of].worst),
  };
}

/** Mean surprisal of the scored tokens under the base, in nats a token and in bits a byte. */
function baseOf({ source: { texts }, scores }: Cell, tokenizer: Pick<Tokenizer, "pieceOf">) {
  const nats = -scores.base.reduce((sum, own) => sum + own.reduce((total, logprob) => total + logprob, 0), 0);
  const bytes = texts
    .flatMap(({ ids }) => ids.slice(-scoredTokens))
    .reduce((sum, id) => sum + tokenizer.pieceOf(id).length, 0);
  return { nats: nats / (texts.length * scoredTokens), bitsPerByte: nats / Math.LN2 / bytes };
}

/** Means over the sources of each kind. */
function meansOf(cells: readonly Cell[], tokenizer: Pick<Tokenizer, "pieceOf">): EvaluationMean[] {
  const tests = classTests(tokenizer);
  const groups = Map.groupBy(cells, ({ source, prompt }) => `${source.kind} ${prompt}`);
  return [...groups.values()].map((own): EvaluationMean => {
    const [{ source, prompt }] = own;
    const over = (of: Comparison, isCounted?: ClassTest): Estimate | null =>
      overSources(own.map((cell) => gainsOf(cell, of, isCounted)));
    const present = tokenClasses.filter((name) => over("mixture", tests[name]) !== null);
    const bases = own.map((cell) => baseOf(cell, tokenizer));
    const meanOf = (values: readonly number[]) => values.reduce((sum, value) => sum + value, 0) / values.length;
    return {
      ...{ kind: source.kind, prompt, sources: own.length },
      base: { nats: meanOf(bases.map(({ nats }) => nats)), bitsPerByte: meanOf(bases.map((one) => one.bitsPerByte)) },
      gains: byComparison((of) => over(of)!),
      parts: record(present, (name) => byComparison((of) => over(of, tests[name])!)),
      worst: byComparison((of) => meanOf(own.map((cell) => worstOf(gainsOf(cell, of))))),
    };
  });
}

function byComparison<T>(of: (comparison: Comparison) => T): Record<Comparison, T> {
  return record(comparisons, of);
}

function record<K extends string, T>(keys: readonly K[], of: (key: K) => T): Record<K, T> {
  return Object.fromEntries(keys.map((key) => [key, of(key)])) as Record<K, T>;
}
