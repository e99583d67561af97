/**
 * The load of a backend process, in a header of every answer, so that a cell also knows what other cells have sent there. The
 * answer to a batch counts the batch.
 */
export const loadHeader = "x-chameleon-load";

export interface BackendLoad {
  /** Sequences under way, waiting and running. */
  sequences: number;
  /** Sequences that can run at the same time. */
  slots: number;
}

export function loadText({ sequences, slots }: BackendLoad): string {
  return `${sequences}/${slots}`;
}

/** A load from a header; null if there is none, or not a valid one. */
export function readLoad(header: string | null | undefined): BackendLoad | null {
  const [, sequences, slots] = /^(\d{1,7})\/([1-9]\d{0,6})$/.exec(header ?? "") ?? [];
  return slots === undefined ? null : { sequences: Number(sequences), slots: Number(slots) };
}
