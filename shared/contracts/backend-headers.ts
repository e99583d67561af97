/**
 * Header with the name of a backend process. Every answer names its process, because an address may lead to several processes. A call may
 * name a process; every other process refuses the call with `misdirected`. The call's signature covers the name.
 */
export const nameHeader = "x-chameleon-backend";
/** A DNS label, because a host name may contain the process's name. */
export const processNamePattern = /^[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?$/;

export function readProcessName(header: string | null | undefined): string | null {
  return header && processNamePattern.test(header) ? header : null;
}

/** Header of every answer with the backend process's load. The load includes the answered batch. */
export const loadHeader = "x-chameleon-load";

export interface BackendLoad {
  sequences: number;
  slots: number;
}

export function loadText({ sequences, slots }: BackendLoad): string {
  return `${sequences}/${slots}`;
}

export function readLoad(header: string | null | undefined): BackendLoad | null {
  const [, sequences, slots] = /^(\d{1,7})\/([1-9]\d{0,6})$/.exec(header ?? "") ?? [];
  return slots === undefined ? null : { sequences: Number(sequences), slots: Number(slots) };
}
