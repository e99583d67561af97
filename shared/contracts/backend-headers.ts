/**
 * Header with the name of a backend process, because an address may lead to several processes. Every answer names the process that
 * answered. A call may name the process that must answer it. An ingress can route by the name, and any other process refuses the call with
 * `misdirected` before it reads the body. The call's signature covers the name.
 */
export const nameHeader = "x-chameleon-backend";
/** A process's name is a DNS label, because it can be a part of a host name. */
export const processNamePattern = /^[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?$/;

/** Returns null if the name is absent or not valid. */
export function readProcessName(header: string | null | undefined): string | null {
  return header && processNamePattern.test(header) ? header : null;
}

/** Header of every answer with the backend process's load. The load counts sequences of all cells and of the answered batch. */
export const loadHeader = "x-chameleon-load";

export interface BackendLoad {
  /** Sequences that wait or run. */
  sequences: number;
  slots: number;
}

export function loadText({ sequences, slots }: BackendLoad): string {
  return `${sequences}/${slots}`;
}

/** Returns null if the load is absent or not valid. */
export function readLoad(header: string | null | undefined): BackendLoad | null {
  const [, sequences, slots] = /^(\d{1,7})\/([1-9]\d{0,6})$/.exec(header ?? "") ?? [];
  return slots === undefined ? null : { sequences: Number(sequences), slots: Number(slots) };
}
