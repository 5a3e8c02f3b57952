/** Calls of the gateway with a deadline, as promises; and how the examples print an error. */
import { Metadata, status, type CallOptions, type ClientUnaryCall, type ServiceError } from "@grpc/grpc-js";

const DEADLINE_MS = 5_000;

type Method<Request, Response> = (
  request: Request,
  metadata: Metadata,
  options: CallOptions,
  callback: (error: ServiceError | null, response: Response) => void,
) => ClientUnaryCall;

/** One call of a method that is bound to its client. */
export function call<Request, Response>(method: Method<Request, Response>, request: Request): Promise<Response> {
  return new Promise((resolve, reject) => {
    method(request, new Metadata(), { deadline: Date.now() + DEADLINE_MS }, (error, response) =>
      error ? reject(error) : resolve(response),
    );
  });
}

/** Prints the error of a call in one line. */
export function report(error: unknown): void {
  const { code, details } = error as ServiceError;
  console.error(`${status[code]}: ${details}`);
}
