/**
 * The queue for one object's connections to its backends: decides which entries go in the next call. Pure: no I/O, clock or timers;
 * the Dispatcher makes the call that `take` returns. Entries are sequences, sent first or again, and control calls.
 *
 * Entries of one group may share a call (a micro-batch): they go to the same backend and ask for the same model. A group sends at
 * once while fewer than `maxCalls` of its calls await an answer, so a lone request never waits. Otherwise its entries gather until
 * one is answered: the busier the backend, the larger the calls. A call awaits an answer only until the backend accepts or refuses
 * it; its frames delay no other call.
 *
 * Tenants take turns, one entry a turn: the tenant whose last turn was longest ago is next, with its entry that is due first. So a
 * tenant's only sequence waits for at most one sequence of each other tenant in its group, and one call of each in other groups.
 */
import { queueLimits } from "./routing-limits.ts";

/** Type of the limits; unit tests use smaller ones. */
export type QueueLimits = typeof queueLimits;

/** Which entries may share a call. */
export interface CallGroup {
  /** Equal for entries that may share a call. */
  key: string;
  /** Id of the backend that the call is expected to go to. */
  backend: string;
  /** Calls of this group that may await an answer; absent: `callsPerGroup`. */
  maxCalls?: number;
}

export interface QueueEntry {
  tenant: string;
  /** A tenant's entries go in this order. */
  dueMs: number;
}

/** Entries that are sent together, in the order of their turns. Pass it to `release` when it is answered. */
export interface QueuedCall<T> {
  group: CallGroup;
  /** Id of the backend that it is made to: the expected one, unless the caller chooses another. */
  backend: string;
  entries: T[];
}

interface Waiting<T> {
  group: CallGroup;
  entry: T;
}

interface Tenant<T> {
  /** By time due, whatever their groups. */
  waiting: Waiting<T>[];
  lastTurn: number;
}

export class CallQueue<T extends QueueEntry> {
  readonly #limits: QueueLimits;
  /** Tenants with waiting entries. */
  readonly #tenants = new Map<string, Tenant<T>>();
  /** Calls that await an answer. */
  readonly #awaiting = new Set<QueuedCall<T>>();
  #waiting = 0;
  #turns = 0;

  constructor(limits: QueueLimits = queueLimits) {
    this.#limits = limits;
  }

  /** Number of waiting entries. */
  get waiting(): number {
    return this.#waiting;
  }

  waitingOf(tenant: string): number {
    return this.#tenants.get(tenant)?.waiting.length ?? 0;
  }

  /** Maximum entries that the tenant may have waiting now, including those that wait already. */
  roomOf(tenant: string): number {
    const free = this.#limits.entries - this.#waiting;
    return Math.max(0, Math.floor((free + this.waitingOf(tenant)) / 2));
  }

  /** No entry waits and no call awaits an answer. */
  get idle(): boolean {
    return this.#waiting === 0 && this.#awaiting.size === 0;
  }

  /** Adds entries, even if there is no room (`roomOf`), because a sequence that has begun is not refused later. */
  add(group: CallGroup, entries: readonly T[]): void {
    for (const entry of entries) {
      // A new tenant is behind all others: otherwise one that comes and goes would always be first.
      const tenant = this.#tenants.get(entry.tenant) ?? { waiting: [], lastTurn: ++this.#turns };
      this.#tenants.set(entry.tenant, tenant);
      // Usually the last; equal times stay in order of arrival.
      const before = tenant.waiting.findLastIndex((other) => other.entry.dueMs <= entry.dueMs);
      tenant.waiting.splice(before + 1, 0, { group, entry });
      this.#waiting++;
    }
  }

  /** Drops the waiting entries that `isDropped` picks. */
  remove(isDropped: (entry: T) => boolean): void {
    for (const [name, tenant] of this.#tenants) {
      const left = tenant.waiting.filter(({ entry }) => !isDropped(entry));
      this.#waiting -= tenant.waiting.length - left.length;
      tenant.waiting = left;
      if (left.length === 0) this.#tenants.delete(name);
    }
  }

  /** The call to make now, or null: of the groups that may send, the one of the tenant whose turn it is. */
  take(): QueuedCall<T> | null {
    if (this.#waiting === 0 || this.#awaiting.size >= this.#limits.connections) return null;
    const { callsPerGroup, connectionsPerBackend } = this.#limits;
    const ofGroup = Map.groupBy(this.#awaiting, (call) => call.group.key);
    const ofBackend = Map.groupBy(this.#awaiting, (call) => call.backend);
    const maySend = ({ group: { key, backend, maxCalls = callsPerGroup } }: Waiting<T>) =>
      (ofGroup.get(key)?.length ?? 0) < maxCalls && (ofBackend.get(backend)?.length ?? 0) < connectionsPerBackend;
    const [next] = this.#inTurn(maySend);
    if (!next) return null;
    const [{ group }] = next.wanted;
    const call = { group, backend: group.backend, entries: this.#takeTurns(group.key) };
    this.#awaiting.add(call);
    return call;
  }

  /** The call was answered, or failed. */
  release(call: QueuedCall<T>): void {
    this.#awaiting.delete(call);
  }

  /** Tenants with wanted entries, the one whose last turn was longest ago first. */
  #inTurn(isWanted: (one: Waiting<T>) => boolean): { tenant: Tenant<T>; wanted: Waiting<T>[] }[] {
    const all = Array.from(this.#tenants.values(), (tenant) => ({ tenant, wanted: tenant.waiting.filter(isWanted) }));
    return all.filter(({ wanted }) => wanted.length > 0).sort((a, b) => a.tenant.lastTurn - b.tenant.lastTurn);
  }

  /** Takes entries of a group, in turns, up to `entriesPerCall`. */
  #takeTurns(key: string): T[] {
    const turns = this.#inTurn(({ group }) => group.key === key);
    const taken = new Set<T>();
    while (taken.size < this.#limits.entriesPerCall && turns.length > 0) {
      const { tenant, wanted } = turns.shift()!;
      taken.add(wanted.shift()!.entry);
      tenant.lastTurn = ++this.#turns;
      if (wanted.length > 0) turns.push({ tenant, wanted });
    }
    this.remove((entry) => taken.has(entry));
    return [...taken];
  }
}
