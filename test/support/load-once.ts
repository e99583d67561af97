/** Shares one load among all requests of a test file, even among requests that wait for each other. */

/** Runs `load` once and keeps its promise; after a failure the next caller tries again. */
export function loadOnce<T>(load: () => Promise<T>): () => Promise<T> {
  let loading: Promise<T> | null = null;
  return () => {
    loading ??= load().catch((error) => {
      loading = null;
      throw error;
    });
    return loading;
  };
}
