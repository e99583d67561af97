/** JSON log lines. Ids, counts, times and errors; never the text or token ids of a request. */

export type LogFields = Record<string, string | number | boolean | null>;
export type Log = (level: "info" | "warn" | "error", event: string, fields?: LogFields) => void;

/** A log that writes one JSON object a line. */
export function jsonLog(write: (line: string) => void, now: () => Date): Log {
  return (level, event, fields = {}) => {
    write(`${JSON.stringify({ time: now().toISOString(), level, event, ...fields })}\n`);
  };
}
