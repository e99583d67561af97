/**
 * The load of a backend process. Every answer carries it, so that a cell also knows what others have sent there. A batch's
 * answer counts the batch. It is a header because an edge or backend of the release before, which does not know it, ignores
 * it or lacks it.
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
