/**
 * The name of a backend process, because one address may lead to several. Every answer carries the name of the process that
 * answered. A call may carry the name of the process that it is for; an ingress may route by it, and any other process
 * refuses the call with `misdirected` before it reads the body. The signature of a call covers it.
 */
export const nameHeader = "x-chameleon-backend";
/** A DNS label, because a name can be a part of a host name. */
export const processNamePattern = /^[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?$/;

/** A process name from a header; null if there is none, or not a valid one. */
export function readProcessName(header: string | null | undefined): string | null {
  return header && processNamePattern.test(header) ? header : null;
}

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
