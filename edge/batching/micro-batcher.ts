/**
 * Decides which sequences are sent to the backend together, and when. Pure: no I/O, no clock, no timers; the BatchClient
 * sends what `take` returns after each event.
 *
 * There is one queue per centroid. An idle queue is sent at once, so a lone request never waits. While a call of a centroid
 * awaits acceptance, what arrives for that centroid gathers and is sent as one call: the busier the backend, the larger the
 * calls. Decoding of an accepted call delays no other.
 *
 * Acceptance takes a round trip. So that a far backend costs no more than the way to it, a queue gathers for at most
 * `gatherMs`, and the last free call takes along sequences of other queues: steps mix any centroids.
 *
 * Tenants take turns, one sequence a turn: the next turn is of the tenant whose last turn is longest ago, and within a tenant
 * of the sequence that is due first. So a tenant's only sequence waits, in its queue, for at most one sequence of each other
 * tenant, and between queues for at most one call of each.
 */
import { sequencesPerBatch } from "../../shared/contracts/inference.ts";
import { awaitingCalls } from "../backend/routing-limits.ts";

export const batchingLimits = {
  /** Calls awaiting acceptance at once. The platform allows six connections per object that await headers. */
  awaitingCalls,
  /**
   * Sequences waiting in all queues. A tenant may hold as much of it as it leaves free: one alone half of it, two with
   * much to do a third each, and there is always room for one more tenant. More are refused.
   */
  queuedSequences: 2048,
  sequencesPerCall: sequencesPerBatch,
  /** Milliseconds for which a queue gathers while its call awaits acceptance: longer than a backend of the region takes. */
  gatherMs: 10,
};

/** Tests have others. */
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

interface Head<T> {
  key: string;
  tenant: string;
  head: T;
}

interface Tenant {
  waiting: number;
  lastTurn: number;
}

export class MicroBatcher<T extends Waiting> {
  readonly #limits: BatchingLimits;
  /** Key → tenant → its entries by time due. Empty queues are removed. */
  readonly #queues = new Map<string, Map<string, T[]>>();
  /** Tenants with waiting entries. */
  readonly #tenants = new Map<string, Tenant>();
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
    return this.#tenants.get(tenant)?.waiting ?? 0;
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
    const queue = this.#queues.get(key) ?? new Map<string, T[]>();
    this.#queues.set(key, queue);
    queue.set(tenant, [...(queue.get(tenant) ?? []), ...entries].sort(byTimeDue));
    // A new tenant is behind all others: otherwise one that comes and goes would always be first.
    const known = this.#tenants.get(tenant) ?? { waiting: 0, lastTurn: ++this.#turns };
    known.waiting += entries.length;
    this.#tenants.set(tenant, known);
    this.#queued += entries.length;
    return true;
  }

  /** Drops the waiting entries that `drop` picks. */
  remove(drop: (entry: T) => boolean): void {
    for (const [key, queue] of this.#queues) {
      for (const [tenant, entries] of queue) {
        const left = entries.filter((entry) => !drop(entry));
        queue.set(tenant, left);
        if (left.length < entries.length) this.#forget(key, tenant, entries.length - left.length);
      }
    }
  }

  /** The next micro-batch to send now, or null. Of the queues that may send, the one of the tenant whose turn it is. */
  take(nowMs: number): MicroBatch<T> | null {
    const free = this.#limits.awaitingCalls - this.#awaiting.size;
    if (free <= 0) return null;
    const heads = this.#heads(({ key, head }) => !this.#gathers(key, nowMs) || (free === 1 && head.sharedBy !== null));
    const tenant = this.#next(heads.map((one) => one.tenant));
    if (tenant === null) return null;
    const own = heads.filter((one) => one.tenant === tenant);
    const { key, head } = own.reduce((first, one) => (byTimeDue(one.head, first.head) < 0 ? one : first));
    const id = ++this.#calls;
    this.#awaiting.set(id, { key, sentMs: nowMs });
    const { sequencesPerCall } = this.#limits;
    const entries = this.#takeTurns((one) => one.key === key, sequencesPerCall);
    if (free === 1 && head.sharedBy !== null) {
      const room = sequencesPerCall - entries.length;
      entries.push(...this.#takeTurns((one) => one.head.sharedBy === head.sharedBy, room));
    }
    return { id, key, entries };
  }

  /** When the first of the queues that gather may send, in milliseconds; null if none waits for that. */
  get gathersUntilMs(): number | null {
    if (this.#awaiting.size >= this.#limits.awaitingCalls) return null;
    let earliest = Number.POSITIVE_INFINITY;
    for (const key of this.#queues.keys()) {
      const calls = [...this.#awaiting.values()].filter((call) => call.key === key);
      const latest = Math.max(...calls.map(({ sentMs }) => sentMs));
      if (calls.length > 0) earliest = Math.min(earliest, latest + this.#limits.gatherMs);
    }
    return earliest === Number.POSITIVE_INFINITY ? null : earliest;
  }

  /** The call was accepted, or failed. */
  accepted(id: number): void {
    this.#awaiting.delete(id);
  }

  #gathers(key: string, nowMs: number): boolean {
    const { gatherMs } = this.#limits;
    return this.#awaiting.values().some((call) => call.key === key && nowMs - call.sentMs < gatherMs);
  }

  /** The first of each tenant in each queue. */
  #heads(isWanted: (head: Head<T>) => boolean): Head<T>[] {
    const heads: Head<T>[] = [];
    for (const [key, queue] of this.#queues) {
      for (const [tenant, [head]] of queue) if (isWanted({ key, tenant, head })) heads.push({ key, tenant, head });
    }
    return heads;
  }

  /** Takes at most `room` of the wanted entries, in turns. */
  #takeTurns(isWanted: (head: Head<T>) => boolean, room: number): T[] {
    const heads = this.#heads(isWanted);
    const taken: T[] = [];
    while (taken.length < room) {
      const next = this.#next(heads.map(({ tenant }) => tenant));
      const at = heads.findIndex(({ tenant }) => tenant === next);
      if (at < 0) break;
      const { key, tenant } = heads[at];
      const entries = this.#queues.get(key)!.get(tenant)!;
      taken.push(entries.shift()!);
      this.#tenants.get(tenant)!.lastTurn = ++this.#turns;
      const follower = { key, tenant, head: entries[0] };
      if (entries.length > 0 && isWanted(follower)) heads[at] = follower;
      else heads.splice(at, 1);
      this.#forget(key, tenant, 1);
    }
    return taken;
  }

  /** The tenant whose last turn is longest ago. */
  #next(tenants: Iterable<string>): string | null {
    let next: string | null = null;
    let earliest = Number.POSITIVE_INFINITY;
    for (const tenant of tenants) {
      const { lastTurn } = this.#tenants.get(tenant)!;
      if (lastTurn >= earliest) continue;
      next = tenant;
      earliest = lastTurn;
    }
    return next;
  }

  /** Updates counts and removes empty queues after `left` entries of the tenant have left its queue. */
  #forget(key: string, tenant: string, left: number): void {
    const queue = this.#queues.get(key)!;
    if (queue.get(tenant)!.length === 0) queue.delete(tenant);
    if (queue.size === 0) this.#queues.delete(key);
    const known = this.#tenants.get(tenant)!;
    known.waiting -= left;
    if (known.waiting === 0) this.#tenants.delete(tenant);
    this.#queued -= left;
  }
}

/** Sorting is stable: entries that are due at the same time stay in order of arrival. */
function byTimeDue(a: Waiting, b: Waiting): number {
  return dueMs(a) - dueMs(b);
}

function dueMs({ sequence, arrivedMs }: Waiting): number {
  return arrivedMs + (sequence.deadlineMs ?? defaultDeadlineMs);
}
