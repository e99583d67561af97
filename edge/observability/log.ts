/** What both the Worker and its objects write down. */
import type { ServiceError } from "../../shared/errors.ts";
import type { Consumption } from "../tenants/consumption.ts";

export function logFailure(requestId: string, error: ServiceError): void {
  const cause = error.cause instanceof Error ? (error.cause.stack ?? error.cause.message) : error.cause;
  console.error(JSON.stringify({ requestId, kind: error.kind, message: error.message, cause }));
}

/** An event for each model and centroid. A deployment may be without the dataset. */
export function usageReport({ USAGE_EVENTS }: { USAGE_EVENTS?: AnalyticsEngineDataset }) {
  return (tenant: string, consumed: readonly Consumption[]): void => {
    for (const { model, centroid, requests, promptTokens, completionTokens } of consumed) {
      const doubles = [requests, promptTokens, completionTokens];
      USAGE_EVENTS?.writeDataPoint({ indexes: [tenant], blobs: [model, centroid], doubles });
    }
  };
}
