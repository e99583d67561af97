/** Continuations of prompts: how much they repeat of themselves and of the prompt, beside what people wrote. */
import type { EngineScorer } from "../../../gpu-backend/training/figures/engine-scorer.ts";
import { mainMethods, type Placement, Prompt, planners } from "../../../gpu-backend/training/figures/serving.ts";
import { leastPrompt, type Source, scoredTokens } from "../../../gpu-backend/training/figures/texts.ts";
import type { Tokenizer } from "../../../shared/tokenizer/tokenizer.ts";
import { distinctBigrams, endsInLoop, promptWordShare } from "./generation-figures.ts";

export const temperatures = [0, 0.7, 1];

export interface GenerationRow {
  method: string;
  /** null: written by people. */
  temperature: number | null;
  samples: number;
  /** Means over the samples. */
  distinctBigrams: number;
  promptWords: number;
  /** Share of the samples. */
  loops: number;
}

/** One continuation of each of `count` prompts, spread over the sources, by each method at each temperature. */
export async function measureGeneration(
  sources: readonly Source[],
  count: number,
  placement: Placement,
  scorer: EngineScorer,
  onRow: (done: number) => void,
): Promise<GenerationRow[]> {
  const texts = Array.from({ length: count }, (_, i) => {
    const own = sources[i % sources.length].texts;
    return own[Math.floor(i / sources.length) % own.length].ids;
  });
  const prompts = texts.map((ids) => ids.slice(0, leastPrompt));
  const { tokenizer } = scorer.artifacts;
  const people = texts.map((ids) => ids.slice(leastPrompt));
  const rows = [rowOf("people", null, prompts, people, tokenizer)];
  for (const temperature of temperatures) {
    for (const method of mainMethods) {
      const asked = prompts.map((ids, i) => {
        const plan = planners[method](new Prompt(ids, placement), i);
        return { ids, plan, seed: i, temperature, tokens: scoredTokens };
      });
      rows.push(rowOf(method, temperature, prompts, await scorer.continue(asked), tokenizer));
      onRow(rows.length);
    }
  }
  return rows;
}

export const generationRows = 1 + temperatures.length * mainMethods.length;

function rowOf(
  method: string,
  temperature: number | null,
  prompts: readonly number[][],
  continuations: readonly number[][],
  tokenizer: Tokenizer,
): GenerationRow {
  const shares = continuations.flatMap(
    (ids, i) => promptWordShare(tokenizer.decode(prompts[i]), tokenizer.decode(ids)) ?? [],
  );
  return {
    ...{ method, temperature, samples: continuations.length },
    distinctBigrams: mean(continuations.map(distinctBigrams)),
    promptWords: mean(shares),
    loops: mean(continuations.map((ids) => (endsInLoop(ids) ? 1 : 0))),
  };
}

function mean(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}
