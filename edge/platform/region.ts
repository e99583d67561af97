/**
 * A region is a location hint of the platform: where a Durable Object is created, and near which backends run.
 * https://developers.cloudflare.com/durable-objects/reference/data-location/#provide-a-location-hint
 */
export const regions = ["wnam", "enam", "sam", "weur", "eeur", "apac", "oc", "afr", "me"] as const;

export type Region = (typeof regions)[number];
