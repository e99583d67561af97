/**
 * What the engine runs: passes over rows, whose keys and values the runner owns, on whatever device they are. The engine has a
 * handle for each row and never sees their bytes.
 * Shapes: S rows of a pass, M positions that the head is computed at, D hidden.
 */
import type { HeadInput, ModelShape, RowOutput } from "./step.ts";

/** Keys and values of one sequence. Opaque. */
export interface Kv {
  /** How many positions it holds. */
  readonly positions: number;
}

/** A copy of some positions of a row, for other rows that begin alike. Opaque and read only. */
export interface KvBlock {
  readonly bytes: number;
  free(): void;
}

export interface KvStore {
  /** Allocated for all rows. */
  readonly bytes: number;
  /** Of the positions that hold any. */
  readonly usedBytes: number;
  readonly capacityBytes: number;
  /** Whether a chunk that continues in its middle gives the bits of the chunk computed at once. */
  readonly continuesChunks: boolean;
  /** True if rows that grow to these lengths, beside `parked` positions of parked ones, fit. Pure. */
  holds(lengths: readonly number[], parked: number): boolean;
  /** An empty row without memory, which will soon hold `wanted` positions. */
  open(wanted: number): Kv;
  /** Frees a row and its memory. */
  close(kv: Kv): void;
  /** Keeps a row's positions, but not its place among those that run. */
  park(kv: Kv): void;
  /**
   * Gives a place to every row that the next step runs, new and parked ones too: `positions` is what each holds at its end. `holds`
   * must be true for them.
   */
  place(rows: readonly { kv: Kv; positions: number }[]): void;
  /** Copies the positions [from, to) of a row. */
  copy(kv: Kv, from: number, to: number): KvBlock;
  /** What enters the last feed-forward part at a position of a row, [D]; valid until the next pass. */
  state(kv: Kv, position: number): Float32Array;
  /** Appends the first `positions` of a block to a row. */
  write(kv: Kv, block: KvBlock, positions: number): void;
  /** Releases memory that is not needed soon. */
  trim(): void;
}

/** One pass of the trunk and the head; without rows, of the head alone. */
export interface Pass {
  /** A prefill has one row. A decode has every row whose prompt is cached, with one token each. */
  phase: "prefill" | "decode";
  /** The next tokens of S rows. */
  rows: readonly { kv: Kv; tokens: readonly number[] }[];
  /** The M positions of the head: first those of this pass, then earlier ones. */
  states: readonly { kv: Kv; position: number }[];
  head: HeadInput;
}

export interface PassOutput extends RowOutput {
  /** Final hidden states (after the last layer norm), [M, D]; null unless they are wanted. */
  hidden: Float32Array | null;
  /** 1 for each row whose new keys and values are finite, [S]. The tokens of others are not kept. */
  finite: Uint8Array;
}

export interface ModelRunner {
  readonly config: ModelShape;
  /** Q */
  readonly gates: number;
  readonly kv: KvStore;
  run(pass: Pass): Promise<PassOutput>;
  release(): Promise<void>;
}
