/**
 * Admission by a tenant's ledger. One call counts a request and reserves its tokens, another settles the request. A large body needs a
 * third call before it is read. A cached refusal needs no call.
 */
import { ServiceError, unavailable } from "../../shared/errors.ts";
import { settlesWithin } from "../../shared/settles-within.ts";
import { steadyClock } from "../platform/clock.ts";
import type { RefreshedParts } from "../platform/refreshed.ts";
import type { Region } from "../platform/region.ts";
import type { AdmittedRequest, Consumption, UseRecorder } from "./consumption.ts";
import type { Access } from "./keys.ts";
import { KnownRefusals } from "./known-refusals.ts";
import { type Ledger, ledgerOf } from "./ledger.ts";
import type { Claim } from "./ledger-store.ts";
import { type Decision, type Gauge, type Refusal, reservationMs } from "./quota.ts";

interface SettlementDependencies extends RefreshedParts {
  ledgers: DurableObjectNamespace<Ledger>;
  recorder: UseRecorder;
  log(requestId: string, error: ServiceError): void;
}

interface AdmissionRequest {
  requestId: string;
  access: Access;
  region: Region;
  idempotencyKey: string | null;
  /** Called with each decision of the ledger. For a tenant without limits, the ledger makes no decision. */
  onDecision(decision: Decision): void;
}

/** Begins the admission before the body is read. Throws rate_limited or quota_exceeded for a cached refusal. */
export type BeginAdmission = (request: AdmissionRequest) => PendingAdmission;

export interface PendingAdmission {
  /** Claims the idempotency key for a body's digest. Throws idempotency_conflict if an earlier request used it with another body. */
  claim(digest: string): Promise<Claim>;
  /** Counts the request before its body is read and its tokens are known. Throws as `reserve` does. */
  admit(): Promise<void>;
  /** Counts the request unless `admit` did. Reserves `tokens`, the most that the request can use. Throws rate_limited or quota_exceeded. */
  reserve(tokens: number): Promise<Admission>;
  /** Called after the route. Counts a request that was not counted; ends a request that reserved no tokens. Throws as `reserve` does. */
  end(): Promise<void>;
}

export interface Admission {
  readonly request: AdmittedRequest;
  renew(): void;
  /**
   * Only the first call has an effect. Never rejects. Resolves when the use is counted or stored; an answer must end later, so that no
   * crash loses a charge.
   */
  settle(consumed: readonly Consumption[]): Promise<void>;
}

/** Refuses a request if its ledger cannot be called, because limits are exact. */
const ledgerAway = unavailable("The tenant's limits and keys cannot be checked now");

export function createAdmissions(dependencies: SettlementDependencies): BeginAdmission {
  const { ledgers } = dependencies;
  const knownRefusals = new KnownRefusals(dependencies.now);
  return ({ requestId, access: { tenant, limits }, region, idempotencyKey, onDecision }) => {
    const isLimited = Object.values(limits).some((limit) => limit !== null);
    const keyed = idempotencyKey !== null && { idempotencyKey };
    const admitted = admissionOf({ requestId, tenant, beganMs: dependencies.now(), isLimited, ...keyed }, dependencies);
    const ledger = ledgerOf(ledgers, tenant, region);
    const claim = async (digest: string) => {
      const claimed = await ledger.claim(idempotencyKey!, digest).catch(ledgerAway);
      if (claimed) return claimed;
      const message = "The Idempotency-Key came with another request before; use a new key for each request.";
      throw new ServiceError("idempotency_conflict", message, { param: "Idempotency-Key" });
    };
    if (!isLimited) return { claim, admit: async () => {}, reserve: async () => admitted, end: async () => {} };
    const known = knownRefusals.decisionFor(tenant, limits);
    if (known) apply(known, onDecision);
    let isCounted = false;
    /** True while the ledger may count the request as running, but the route has no Admission to settle. */
    let isOpen = false;
    const count = async (tokens?: number) => {
      [isCounted, isOpen] = [true, true];
      const decision = await ledger.admit(requestId, limits, tokens).catch(ledgerAway);
      isOpen = decision.refusal === null;
      if (!decision.isOfTokens) knownRefusals.note(tenant, decision);
      apply(decision, onDecision);
      return decision;
    };
    return {
      claim,
      async admit() {
        await count();
      },
      async reserve(tokens) {
        if (!isCounted) await count(tokens);
        else {
          const decision = await ledger.reserve(requestId, tokens, limits).catch(ledgerAway);
          apply({ ...decision, requests: null }, onDecision);
        }
        isOpen = false;
        return admitted;
      },
      async end() {
        try {
          if (!isCounted) await count();
        } finally {
          if (isOpen) void admitted.settle([]);
        }
      },
    };
  };
}

/** Timeout of an answer's wait for its charge: longer than all tries of `workerRecorder`. */
const chargeWaitMs = 3000;

export function admissionOf(request: AdmittedRequest, dependencies: SettlementDependencies): Admission {
  const { requestId, tenant, isLimited } = request;
  const { ledgers, recorder, background, log } = dependencies;
  const now = steadyClock(dependencies.now);
  let renewedMs = now();
  let isOpen = true;
  return {
    request,
    renew() {
      if (!isLimited || now() - renewedMs < reservationMs / 4) return;
      renewedMs = now();
      // A later renewal may succeed; otherwise the lease expires.
      const ignore = () => undefined;
      background(ledgerOf(ledgers, tenant).renew(requestId).then(ignore, ignore));
    },
    async settle(consumed) {
      if (!isOpen) return;
      isOpen = false;
      if (consumed.length === 0 && !isLimited) return;
      const recorded = recorder.record(request, consumed).catch((cause) => {
        log(requestId, new ServiceError("internal", `The use of ${tenant} was not counted.`, { cause }));
      });
      background(recorded);
      await settlesWithin(recorded, chargeWaitMs);
    },
  };
}

/** Whether a request is settled or its lease has expired. False for a tenant without limits, or if the ledger does not answer. */
export async function hasEnded(
  { requestId, tenant, isLimited }: AdmittedRequest,
  ledgers: DurableObjectNamespace<Ledger>,
): Promise<boolean> {
  if (!isLimited) return false;
  const isOpen = await ledgerOf(ledgers, tenant)
    .renew(requestId)
    .catch(() => true);
  return !isOpen;
}

function apply(decision: Decision, onDecision: AdmissionRequest["onDecision"]): void {
  onDecision(decision);
  if (decision.refusal) throw limitError(decision.refusal);
}

const limitWords = {
  requestsPerMinute: "requests a minute",
  tokensPerMinute: "tokens a minute",
  concurrentRequests: "requests at once",
  tokensPerMonth: "tokens a month",
} as const;

function limitError({ limit, maximum, used, requested, retryAfterMs }: Refusal): ServiceError {
  const advice = retryAfterMs === null ? "It can never fit." : `Try again in ${duration(retryAfterMs)}.`;
  const message = `The limit is ${maximum} ${limitWords[limit]}; ${used} are in use and this request needs ${requested}. ${advice}`;
  const retryAfterSeconds = retryAfterMs === null ? undefined : Math.ceil(retryAfterMs / 1000);
  const kind = limit === "tokensPerMonth" ? "quota_exceeded" : "rate_limited";
  return new ServiceError(kind, message, { retryAfterSeconds });
}

/** Headers as in OpenAI's API. OpenAI's SDKs do not retry a response with `x-should-retry: false`. */
export function decisionHeaders({ refusal, requests, tokens }: Decision): Record<string, string> {
  return {
    ...gaugeHeaders("requests", requests),
    ...gaugeHeaders("tokens", tokens),
    ...(refusal?.retryAfterMs === null && { "x-should-retry": "false" }),
  };
}

function gaugeHeaders(name: string, gauge: Gauge | null): Record<string, string> {
  if (!gauge) return {};
  return {
    [`x-ratelimit-limit-${name}`]: String(gauge.limit),
    [`x-ratelimit-remaining-${name}`]: String(gauge.remaining),
    [`x-ratelimit-reset-${name}`]: duration(gauge.resetMs),
  };
}

/** A duration as OpenAI writes it: `850ms`, `12s`, `6m0s`, `30h12m5s`. */
function duration(ms: number): string {
  if (ms < 1000) return `${Math.ceil(ms)}ms`;
  const seconds = Math.ceil(ms / 1000);
  const [h, m, s] = [Math.floor(seconds / 3600), Math.floor(seconds / 60) % 60, seconds % 60];
  return `${h > 0 ? `${h}h` : ""}${h + m > 0 ? `${m}m` : ""}${s}s`;
}
