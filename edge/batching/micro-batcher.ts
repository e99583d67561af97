/**
 * Decides which sequences are sent to the backend together, and when. Pure: no I/O, no clock, no timers; the BatchClient
 * sends what `take` returns after each event.
 *
 * Sequences of one key form a queue in the sense below; they are kept in one list for each tenant. The key is the backend
 * that they would have gone to when they arrived, for those that may be in any call, and else their adapter. A queue is sent
 * at once while fewer than `callsBeforeGathering` of its calls await acceptance, so a lone request never waits. Otherwise it
 * gathers and is sent as one call: the busier the backend, the larger the calls. Decoding of an accepted call delays no other.
 *
 * Acceptance takes a round trip. So that a far backend costs no more than the way to it, a queue gathers for at most
 * `gatherMs`, and the last free call takes along what may be in any call, whichever backend it would have gone to.
 *
 * Tenants take turns, one sequence a turn: the next turn is of the tenant whose last turn is longest ago, and within a tenant
 * of the sequence that is due first. So a tenant's only sequence waits, in its queue, for at most one sequence of each other
 * tenant, and between queues for at most one call of each.
 */
import { sequencesPerBatch } from "../../shared/contracts/inference.ts";
import { awaitingCalls } from "../backend/routing-limits.ts";

export const batchingLimits = {
  /** See awaitingCalls in routing-limits.ts. */
  awaitingCalls,
  /**
   * Calls of one queue that may await acceptance before it gathers: half of all, so that others find a free one. A call costs
   * CPU time and gathering a wait: of 1, 2, 3, 4 and 6, three gave 16 clients in step the earliest median first tokens.
   */
  callsBeforeGathering: awaitingCalls / 2,
  /**
   * Sequences waiting in all queues. A tenant may hold as much of it as it leaves free: one alone half of it, two with
   * much to do a third each, and there is always room for one more tenant. More are refused.
   */
  queuedSequences: 2048,
  sequencesPerCall: sequencesPerBatch,
  /** Milliseconds for which a queue gathers after its last call: longer than a backend of the region takes to accept one. */
  gatherMs: 10,
};

/** Type of the limits; unit tests use smaller ones. */
export type BatchingLimits = typeof batchingLimits;

/** What the decisions depend on. */
export interface Waiting {
  sequence: { tenant: string; deadlineMs?: number | undefined };
  arrivedMs: number;
  /** Those of the same value may share a call, whatever their queues; null: only with its own queue. */
  sharedBy: string | null;
}

/** Sequences that are sent together, in the order of their turns. */
export interface MicroBatch<T> {
  /** Of the call, to be passed to `accepted`. */
  id: number;
  /** Of the queue that it was taken for. */
  key: string;
  entries: T[];
}

/** A sequence without a deadline is ordered among its tenant's as if it had this one, in milliseconds, as at the backend. */
const defaultDeadlineMs = 60_000;

interface Queued<T> {
  key: string;
  entry: T;
}

interface Tenant<T> {
  /** By time due, whatever their queues. */
  waiting: Queued<T>[];
  lastTurn: number;
}

export class MicroBatcher<T extends Waiting> {
  readonly #limits: BatchingLimits;
  /** Tenants with waiting entries. */
  readonly #tenants = new Map<string, Tenant<T>>();
  /** Calls that await acceptance, by their ids. */
  readonly #awaiting = new Map<number, { key: string; sentMs: number }>();
  #queued = 0;
  #turns = 0;
  #calls = 0;

  constructor(bounds: BatchingLimits = batchingLimits) {
    this.#limits = bounds;
  }

  get queued(): number {
    return this.#queued;
  }

  queuedOf(tenant: string): number {
    return this.#tenants.get(tenant)?.waiting.length ?? 0;
  }

  /** Maximum entries that the tenant may have waiting now, including those that wait already. */
  roomOf(tenant: string): number {
    const free = this.#limits.queuedSequences - this.#queued;
    return Math.floor((free + this.queuedOf(tenant)) / 2);
  }

  /** Nothing waits and no call awaits acceptance. */
  get idle(): boolean {
    return this.#queued === 0 && this.#awaiting.size === 0;
  }

  /** Queues `entries`, all of one tenant. Returns false and queues none if they do not fit. */
  enqueue(key: string, entries: readonly T[]): boolean {
    if (entries.length === 0) return true;
    const { tenant } = entries[0].sequence;
    if (this.queuedOf(tenant) + entries.length > this.roomOf(tenant)) return false;
    // A new tenant is behind all others: otherwise one that comes and goes would always be first.
    const known = this.#tenants.get(tenant) ?? { waiting: [], lastTurn: ++this.#turns };
    known.waiting.push(...entries.map((entry) => ({ key, entry })));
    known.waiting.sort(byTimeDue);
    this.#tenants.set(tenant, known);
    this.#queued += entries.length;
    return true;
  }

  /** Drops the waiting entries that `isDropped` picks. */
  remove(isDropped: (entry: T) => boolean): void {
    for (const [name, tenant] of this.#tenants) {
      const left = tenant.waiting.filter(({ entry }) => !isDropped(entry));
      this.#queued -= tenant.waiting.length - left.length;
      tenant.waiting = left;
      if (left.length === 0) this.#tenants.delete(name);
    }
  }

  /** The next micro-batch to send now, or null. Of the queues that may send, the one of the tenant whose turn it is. */
  take(nowMs: number): MicroBatch<T> | null {
    const free = this.#limits.awaitingCalls - this.#awaiting.size;
    if (free <= 0 || this.#queued === 0) return null;
    const { sequencesPerCall } = this.#limits;
    const untilMs = this.#gatheringUntilMs;
    const gathers = (key: string) => (untilMs.get(key) ?? Number.NEGATIVE_INFINITY) > nowMs;
    const maySend = ({ key, entry }: Queued<T>) => !gathers(key) || (free === 1 && entry.sharedBy !== null);
    const [next] = this.#inTurn(maySend);
    if (!next) return null;
    const [{ key, entry: first }] = next.wanted;
    const id = ++this.#calls;
    this.#awaiting.set(id, { key, sentMs: nowMs });
    const entries = this.#takeTurns((one) => one.key === key, sequencesPerCall);
    if (free === 1 && first.sharedBy !== null) {
      const room = sequencesPerCall - entries.length;
      entries.push(...this.#takeTurns(({ entry }) => entry.sharedBy === first.sharedBy, room));
    }
    return { id, key, entries };
  }

  /** When the first of the queues that gather may send, in milliseconds; null if none waits for that. */
  get gathersUntilMs(): number | null {
    if (this.#awaiting.size >= this.#limits.awaitingCalls || this.#queued === 0) return null;
    const untilMs = this.#gatheringUntilMs;
    const waiting = this.#tenants.values().flatMap((tenant) => tenant.waiting);
    const firstMs = waiting.reduce((min, { key }) => Math.min(min, untilMs.get(key) ?? min), Number.POSITIVE_INFINITY);
    return firstMs === Number.POSITIVE_INFINITY ? null : firstMs;
  }

  /** Until when each queue gathers, by key; without those with few calls. After its last call: so those to a far backend are spread. */
  get #gatheringUntilMs(): ReadonlyMap<string, number> {
    const { callsBeforeGathering, gatherMs } = this.#limits;
    const untilMs = new Map<string, number>();
    for (const [key, calls] of Map.groupBy(this.#awaiting.values(), (call) => call.key)) {
      if (calls.length >= callsBeforeGathering) untilMs.set(key, calls.at(-1)!.sentMs + gatherMs);
    }
    return untilMs;
  }

  /** The call was accepted, or failed. */
  accepted(id: number): void {
    this.#awaiting.delete(id);
  }

  /** Tenants with wanted entries, and these: whose last turn is longest ago is first. */
  #inTurn(isWanted: (one: Queued<T>) => boolean): { tenant: Tenant<T>; wanted: Queued<T>[] }[] {
    const all = Array.from(this.#tenants.values(), (tenant) => ({ tenant, wanted: tenant.waiting.filter(isWanted) }));
    return all.filter(({ wanted }) => wanted.length > 0).sort((a, b) => a.tenant.lastTurn - b.tenant.lastTurn);
  }

  /** Takes at most `room` of the wanted entries, in turns. */
  #takeTurns(isWanted: (one: Queued<T>) => boolean, room: number): T[] {
    const turns = this.#inTurn(isWanted);
    const taken = new Set<T>();
    while (taken.size < room && turns.length > 0) {
      const { tenant, wanted } = turns.shift()!;
      taken.add(wanted.shift()!.entry);
      tenant.lastTurn = ++this.#turns;
      if (wanted.length > 0) turns.push({ tenant, wanted });
    }
    this.remove((entry) => taken.has(entry));
    return [...taken];
  }
}

/** Sorting is stable: entries that are due at the same time stay in order of arrival. */
function byTimeDue(a: { entry: Waiting }, b: { entry: Waiting }): number {
  const dueMs = ({ entry }: { entry: Waiting }) => entry.arrivedMs + (entry.sequence.deadlineMs ?? defaultDeadlineMs);
  return dueMs(a) - dueMs(b);
}
