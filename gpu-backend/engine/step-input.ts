/**
 * Lays out one phase of a step: which tokens and positions the trunk sees, and which positions need the head. Pure.
 * Shapes: S sequences, T tokens (right-padded), N head rows, Q gates.
 */
import type { RowBias } from "../adapters/adapter.ts";
import { minimumPrefillTokens, type StepInput } from "../runtime/step.ts";
import { drawsFromCandidates, isGreedy } from "./sampler.ts";
import type { Chunk } from "./scheduler.ts";
import type { Sequence } from "./sequence.ts";

/** Where a sequence's next token, or the score of a prompt token, comes out. */
export interface Head {
  sequence: Sequence;
  /** Head row with the adapter. */
  row: number;
  /** Head row without it, where the base is compared. */
  baseRow: number | null;
  /** The prompt token to be scored; null where the next token is to be sampled. */
  scoredId: number | null;
}

export interface Phase {
  input: StepInput;
  heads: Head[];
}

/** The tensors the arena feeds for the rows of the phase. */
export type Feed = Pick<StepInput, "past" | "pastLengths" | "pastRows" | "pastTokens" | "begunTokens">;

/** Builds the input for each chunk's next tokens, in the order of the rows. `gates` is Q. */
export function composePhase(
  phase: "prefill" | "decode",
  chunks: readonly Chunk<Sequence>[],
  feed: Feed,
  gates: number,
): Phase {
  const S = chunks.length;
  const longest = chunks.reduce((max, chunk) => Math.max(max, chunk.tokens), 1);
  const T = phase === "prefill" ? Math.max(longest, minimumPrefillTokens) : 1;
  const tokenIds = new Int32Array(S * T);
  const positions = new Int32Array(S * T);
  const rows = new HeadRows(gates);
  const heads: Head[] = [];
  chunks.forEach(({ sequence, tokens }, s) => {
    const start = sequence.cachedTokens;
    for (let t = 0; t < tokens; t++) {
      tokenIds[s * T + t] = sequence.ids[start + t];
      positions[s * T + t] = start + t;
      const scoredId = scoredAfter(sequence, start + t);
      if (scoredId !== null) heads.push(rows.add(sequence, s * T + t, scoredId));
    }
    if (start + tokens === sequence.ids.length && sequence.wantsToken) {
      heads.push(rows.add(sequence, s * T + tokens - 1, null));
    }
  });
  const input = {
    sequences: S,
    tokens: T,
    tokenIds,
    positions,
    ...feed,
    ...rows.tensors(),
    want: {
      logits: heads.some(needsLogits),
      hidden: heads.some(({ sequence, scoredId }) => sequence.trace !== null && scoredId !== null),
    },
  };
  return { input, heads };
}

/** The prompt token after position `position`, where its score is asked for. */
function scoredAfter(sequence: Sequence, position: number): number | null {
  return sequence.scoresPrompt && position + 1 < sequence.promptTokens ? sequence.ids[position + 1] : null;
}

/** The draw may fall beyond the top K, and so may the sampled token's rank without the adapter. */
function needsLogits({ sequence, scoredId, baseRow }: Head): boolean {
  return scoredId === null && (baseRow !== null || !drawsFromCandidates(sequence.request.sampling));
}

interface HeadRow {
  flat: number;
  gates: Float32Array | null;
  /** -1 for none. */
  poolSlot: number;
  inverseTemperature: number;
  targetId: number;
}

const noBias: ReadonlyMap<number, number> = new Map();

/** Collects head rows. */
class HeadRows {
  readonly #gates: number;
  readonly #rows: HeadRow[] = [];
  readonly #bias = { rows: [] as number[], ids: [] as number[], values: [] as number[] };

  constructor(gates: number) {
    this.#gates = gates;
  }

  /** Adds the row at flat position `flat`, and its twin without the adapter where the base is compared. */
  add(sequence: Sequence, flat: number, scoredId: number | null): Head {
    const gates = sequence.acquired?.adapter.gates ?? null;
    // The prompt's own words foretell what follows it, not the prompt; an adapter with a bias wears no second one.
    const ofPrompt = scoredId === null ? sequence.promptBias : null;
    const bias = ofPrompt?.bias ?? sequence.acquired?.adapter.bias ?? null;
    const row = this.#addRow(sequence, { flat, gates, bias, poolSlot: sequence.poolSlot ?? -1 }, scoredId);
    const baseRow = sequence.comparesBase
      ? this.#addRow(sequence, { flat, gates: null, bias: null, poolSlot: -1 }, scoredId)
      : null;
    return { sequence, row, baseRow, scoredId };
  }

  tensors(): Pick<StepInput, "headRows" | "gates" | "poolSlots" | "inverseTemperatures" | "targetIds" | "bias"> {
    const rows = this.#rows;
    const gates = new Float32Array(rows.length * this.#gates);
    rows.forEach((row, n) => {
      if (row.gates) gates.set(row.gates, n * this.#gates);
    });
    return {
      headRows: Int32Array.from(rows, (row) => row.flat),
      gates,
      poolSlots: rows.some(({ poolSlot }) => poolSlot >= 0)
        ? Int32Array.from(rows, ({ poolSlot }) => poolSlot)
        : undefined,
      inverseTemperatures: Float32Array.from(rows, (row) => row.inverseTemperature),
      targetIds: Int32Array.from(rows, (row) => row.targetId),
      bias: {
        rows: Int32Array.from(this.#bias.rows),
        ids: Int32Array.from(this.#bias.ids),
        values: Float32Array.from(this.#bias.values),
      },
    };
  }

  #addRow(
    sequence: Sequence,
    { bias, ...wearing }: Pick<HeadRow, "flat" | "gates" | "poolSlot"> & { bias: RowBias | null },
    scoredId: number | null,
  ): number {
    const row = this.#rows.length;
    const { sampling } = sequence.request;
    const inverseTemperature = scoredId !== null || isGreedy(sampling) ? 1 : 1 / sampling.temperature;
    this.#rows.push({ ...wearing, inverseTemperature, targetId: scoredId ?? 0 });
    // The request's bias steers what is sampled; what the prompt says stands without it. The adapter's is of both.
    const own = scoredId === null ? sequence.bias : noBias;
    const isWorn = new Set<number>();
    bias?.ids.forEach((id, i) => {
      const added = own.get(id);
      if (added !== undefined) isWorn.add(id);
      this.#addBias(row, id, bias.values[i] + (added ?? 0));
    });
    for (const [id, value] of own) if (!isWorn.has(id)) this.#addBias(row, id, value);
    return row;
  }

  #addBias(row: number, id: number, value: number): void {
    this.#bias.rows.push(row);
    this.#bias.ids.push(id);
    this.#bias.values.push(value);
  }
}
