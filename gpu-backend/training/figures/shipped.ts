/**
 * What shipped artifacts gain, measured by the engine that serves them: base, nearest adapter and mixture on the same tokens
 * of held-out documents and of new text, after prompts of several lengths. Nothing is trained or chosen here.
 */
import { keptOrMade } from "../kept-results.ts";
import type { Progress } from "../progress.ts";
import type { Kind, Prompt as PromptLength, Shipped, ShippedRow } from "./data.ts";
import type { EngineScorer } from "./engine-scorer.ts";
import { base, mixture, nearest, type Placement, Prompt, planners } from "./serving.ts";
import { byDocument, type DocumentSum, difference, overDomains } from "./statistics.ts";
import { hasPrompt, type Text, withPrompt } from "./texts.ts";

export const promptLengths = [8, 16, 32, 64, 128, 256] as const;
export const longestPrompt = promptLengths[promptLengths.length - 1];
/** The prompt length at which every adapter is scored, for the choice in hindsight. */
const oraclePrompt = 64;
const fewestDocuments = 2;

export interface ShippedSource extends Pick<ShippedRow, "kind" | "name" | "known" | "heldOut"> {
  texts: Text[];
  /** Questions with their answers; none where the corpus has none. */
  answers: Text[];
}

export interface ShippedOptions {
  scorer: EngineScorer;
  placement: Placement;
  format: string;
  cacheDirectory: string;
  progress: Progress;
  signal?: AbortSignal;
}

/** Nats of the scored tokens of each text, by method. */
type Scores = Record<"base" | "nearest" | "mixture", number[]> & { oracle: number[] | null };

/** Texts of one source after one prompt, with their scores. */
interface Cell {
  source: ShippedSource;
  prompt: PromptLength;
  texts: Text[];
  scores: Scores;
}

/** Throws the signal's reason when aborted; what was scored is kept in the cache. */
export async function measureShipped(
  sources: readonly ShippedSource[],
  options: ShippedOptions,
): Promise<Pick<Shipped, "rows" | "means">> {
  const asked = sources.flatMap((source) => [
    ...promptLengths.map((prompt) => ({
      source,
      prompt,
      texts: source.texts.filter((text) => hasPrompt(text, prompt)),
    })),
    { source, prompt: "question" as const, texts: source.answers },
  ]);
  const wanted = asked.filter(({ texts }) => new Set(texts.map(({ document }) => document)).size >= fewestDocuments);
  const cells: Cell[] = [];
  options.progress.stage("shipped artifacts", wanted.length);
  for (const { source, prompt, texts } of wanted) {
    options.signal?.throwIfAborted();
    const ids = texts.map((text) => (prompt === "question" ? text.ids : withPrompt(text, prompt)));
    const choices = [options.scorer.artifacts.manifestHash, options.format, prompt === oraclePrompt, texts, ids];
    const scores = await keptOrMade(options.cacheDirectory, "shipped", choices, () =>
      scoresOf(texts, ids, prompt === oraclePrompt, options),
    );
    cells.push({ source, prompt, texts, scores });
    options.progress.advance(cells.length, `${source.name}, ${prompt}`);
  }
  return { rows: cells.map(rowOf), means: meansOf(cells) };
}

async function scoresOf(
  texts: readonly Text[],
  ids: readonly number[][],
  withOracle: boolean,
  { scorer, placement }: ShippedOptions,
): Promise<Scores> {
  const by = (method: string) =>
    scorer.score(
      ids.map((own, i) => {
        const { scored } = texts[i];
        const prompt = new Prompt(own.slice(0, own.length - scored), placement);
        return { ids: own, scored, plan: planners[method](prompt, i) };
      }),
    );
  const scores: Scores = {
    ...{ base: await by(base), nearest: await by(nearest), mixture: await by(mixture) },
    oracle: null,
  };
  if (withOracle && scorer.artifacts.manifest.hyperNetwork.kind === "gated-bank") {
    scores.oracle = [];
    for (const [i, own] of ids.entries()) {
      scores.oracle.push(Math.max(...(await scorer.scoreUnderEach(own, texts[i].scored))));
    }
  }
  return scores;
}

function rowOf({ source, prompt, texts, scores }: Cell): ShippedRow {
  const { kind, name, known, heldOut } = source;
  const ofMixture = difference(texts, scores.mixture, scores.base);
  const sum = (values: readonly number[]) => values.reduce((total, value) => total + value, 0);
  const nats = -sum(scores.base);
  return {
    ...{ kind, name, prompt, known, heldOut },
    documents: new Set(texts.map(({ document }) => document)).size,
    texts: texts.length,
    base: {
      nats: nats / sum(texts.map(({ scored }) => scored)),
      bitsPerByte: nats / Math.LN2 / sum(texts.map(({ bytes }) => bytes)),
    },
    nearest: difference(texts, scores.nearest, scores.base).nats,
    mixture: ofMixture.nats,
    mixtureBits: ofMixture.bits,
    mixtureOverNearest: difference(texts, scores.mixture, scores.nearest).nats,
    oracle: scores.oracle && difference(texts, scores.oracle, scores.base).nats,
    worst: ofMixture.worst.mean,
  };
}

/** Means over the sources of each kind; a question's answers are a split of their own. */
function meansOf(cells: readonly Cell[]): Shipped["means"] {
  const groups = Map.groupBy(cells, ({ source, prompt }) => `${source.kind} ${prompt}`);
  return [...groups.values()].map((own) => {
    const [{ source, prompt }] = own;
    const kind: Kind = source.kind;
    const over = (of: (scores: Scores) => readonly number[], than: (scores: Scores) => readonly number[]) =>
      overDomains(
        own.map(({ texts, scores }) =>
          byDocument(
            texts,
            of(scores).map((nats, i) => nats - than(scores)[i]),
          ),
        ),
      );
    const bits = own.map(({ texts, scores }) => bitsByDocument(texts, scores));
    return {
      ...{ kind, prompt, sources: own.length },
      nearest: over(
        ({ nearest: of }) => of,
        ({ base: than }) => than,
      ),
      mixture: over(
        ({ mixture: of }) => of,
        ({ base: than }) => than,
      ),
      mixtureBits: overDomains(bits),
      mixtureOverNearest: over(
        ({ mixture: of }) => of,
        ({ nearest: than }) => than,
      ),
      oracle: own.every(({ scores }) => scores.oracle)
        ? over(
            ({ oracle }) => oracle!,
            ({ base: than }) => than,
          )
        : null,
    };
  });
}

/** Bits that the mixture gains, and bytes, by document. */
function bitsByDocument(texts: readonly Text[], { mixture: of, base: than }: Scores): DocumentSum[] {
  const bits = of.map((nats, i) => (nats - than[i]) / Math.LN2);
  return byDocument(texts, bits, "bytes");
}
