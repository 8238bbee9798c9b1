"""A small client of spotd: sessions that keep a long context on the server, answers that stream.

    with Client("127.0.0.1:50051") as spotd:
        session = spotd.create_session()
        spotd.append_file(session.name, "document.txt", on_progress=print)
        for event in spotd.generate(session.name, message="What is it about?"):
            print(event.text, end="")

Everything the server can do is in the generated modules (proto/spotd/v1); this file shows how to use them.
"""
import pathlib
import sys
from typing import Callable, Iterable, Iterator, NamedTuple, Optional

sys.path.insert(0, str(pathlib.Path(__file__).parent / "generated"))

import grpc  # noqa: E402
from google.rpc import error_details_pb2  # noqa: E402
from grpc_status import rpc_status  # noqa: E402
from spotd.v1 import inference_pb2, inference_pb2_grpc, models_pb2, models_pb2_grpc  # noqa: E402
from spotd.v1 import sessions_pb2, sessions_pb2_grpc  # noqa: E402

CHUNK_BYTES = 256 * 1024
# Pings keep proxies from closing a connection on which a long prefill is computed; the server permits one every 10 s.
CHANNEL_OPTIONS = [("grpc.keepalive_time_ms", 30_000), ("grpc.max_receive_message_length", 16 << 20)]


class SpotdError(Exception):
    """A call that failed: its gRPC status code, and the machine-readable reason ("SESSION_NOT_FOUND")."""

    def __init__(self, error: grpc.RpcError):
        self.code = error.code()
        self.message = error.details()
        self.reason = ""
        self.metadata = {}
        self.retry_after = None  # seconds
        status = rpc_status.from_call(error)
        for detail in status.details if status else ():
            info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
            if detail.Unpack(info):
                self.reason, self.metadata = info.reason, dict(info.metadata)
            elif detail.Unpack(retry):
                self.retry_after = retry.retry_delay.ToTimedelta().total_seconds()
        super().__init__(f"{self.code.name}: {self.message} ({self.reason})")


class Token(NamedTuple):
    """Newly generated text; `result` is set in the last event only (usage, timings, sparsity)."""

    text: str
    result: Optional[inference_pb2.GenerateResult] = None


def _raise(error: grpc.RpcError):
    raise SpotdError(error) from error


class Client:
    """`tls_ca` (PEM bytes) makes it speak TLS, `tls_cert` and `tls_key` show a certificate, `token` is a bearer token."""

    def __init__(self, address: str = "127.0.0.1:50051", timeout: Optional[float] = None, *,
                 tls_ca: Optional[bytes] = None, tls_cert: Optional[bytes] = None, tls_key: Optional[bytes] = None,
                 token: str = ""):
        if tls_ca is None:
            self._channel = grpc.insecure_channel(address, options=CHANNEL_OPTIONS)
        else:
            credentials = grpc.ssl_channel_credentials(tls_ca, tls_key, tls_cert)
            self._channel = grpc.secure_channel(address, credentials, options=CHANNEL_OPTIONS)
        self._sessions = sessions_pb2_grpc.SessionServiceStub(self._channel)
        self._inference = inference_pb2_grpc.InferenceServiceStub(self._channel)
        self._models = models_pb2_grpc.ModelServiceStub(self._channel)
        self._options = {"timeout": timeout}
        if token:
            self._options["metadata"] = [("authorization", f"Bearer {token}")]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self._channel.close()

    def _call(self, method, request):
        try:
            return method(request, **self._options)
        except grpc.RpcError as error:
            _raise(error)

    # Models.

    def model(self) -> models_pb2.Model:
        return self._call(self._models.ListModels, models_pb2.ListModelsRequest()).models[0]

    def tokenize(self, text: str) -> list:
        return list(self._call(self._models.Tokenize, models_pb2.TokenizeRequest(text=text)).ids)

    def detokenize(self, ids) -> str:
        return self._call(self._models.Detokenize, models_pb2.DetokenizeRequest(ids=ids)).text

    # Sessions.

    def create_session(self, display_name: str = "") -> sessions_pb2.Session:
        session = sessions_pb2.Session(display_name=display_name)
        return self._call(self._sessions.CreateSession, sessions_pb2.CreateSessionRequest(session=session))

    def get_session(self, name: str) -> sessions_pb2.Session:
        return self._call(self._sessions.GetSession, sessions_pb2.GetSessionRequest(name=name))

    def list_sessions(self) -> Iterator[sessions_pb2.Session]:
        request = sessions_pb2.ListSessionsRequest()
        while True:
            page = self._call(self._sessions.ListSessions, request)
            yield from page.sessions
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    def fork_session(self, name: str) -> sessions_pb2.Session:
        return self._call(self._sessions.ForkSession, sessions_pb2.ForkSessionRequest(name=name))

    def rewind_session(self, name: str, token_count: int) -> sessions_pb2.Session:
        return self._call(self._sessions.RewindSession,
                          sessions_pb2.RewindSessionRequest(name=name, token_count=token_count))

    def update_session(self, session: sessions_pb2.Session, fields: Iterable[str]) -> sessions_pb2.Session:
        """Takes over the named fields: "display_name", "policy", "ttl", "expire_time"."""
        request = sessions_pb2.UpdateSessionRequest(session=session)
        request.update_mask.paths.extend(fields)
        return self._call(self._sessions.UpdateSession, request)

    def delete_session(self, name: str) -> None:
        self._call(self._sessions.DeleteSession, sessions_pb2.DeleteSessionRequest(name=name))

    # Inference.

    def append_file(self, session: str, path: str,
                    on_progress: Optional[Callable[[int, int], None]] = None) -> inference_pb2.AppendResult:
        """Streams a UTF-8 file into a session, in chunks that may be cut anywhere."""
        def requests(file):
            yield inference_pb2.AppendRequest(session=session)
            while chunk := file.read(CHUNK_BYTES):
                yield inference_pb2.AppendRequest(input=[inference_pb2.Input(text_chunk=chunk)])
        with open(path, "rb") as file:
            return self._append(requests(file), on_progress)

    def append_text(self, session: str, text: str) -> inference_pb2.AppendResult:
        request = inference_pb2.AppendRequest(session=session, input=[inference_pb2.Input(text=text)])
        return self._append(iter([request]), None)

    def _append(self, requests, on_progress):
        try:
            for response in self._inference.Append(requests, **self._options):
                if response.HasField("result"):
                    return response.result
                if on_progress:
                    on_progress(response.prefill.done_tokens, response.prefill.total_tokens)
        except grpc.RpcError as error:
            _raise(error)
        raise RuntimeError("the stream ended without a result")

    def generate(self, session: str = "", *, text: str = "", message: str = "", top_blocks: int = 0,
                 policy=None, **sampling) -> Iterator[Token]:
        """Streams an answer. `sampling` takes the fields of spotd.v1.Sampling; closing the iterator cancels."""
        request = inference_pb2.GenerateRequest(session=session, top_blocks=top_blocks, policy=policy,
                                                sampling=inference_pb2.Sampling(**sampling))
        request.prompt.extend(_prompt(text, message))
        call = self._inference.Generate(request, **self._options)
        try:
            for response in call:
                if response.HasField("delta"):
                    yield Token(response.delta.text)
                elif response.HasField("result"):
                    yield Token("", response.result)
        except grpc.RpcError as error:
            _raise(error)
        finally:
            call.cancel()

    def complete(self, *, text: str = "", message: str = "", **sampling) -> inference_pb2.CompleteResponse:
        request = inference_pb2.CompleteRequest(prompt=_prompt(text, message),
                                                sampling=inference_pb2.Sampling(**sampling))
        return self._call(self._inference.Complete, request)


def _prompt(text: str, message: str) -> list:
    prompt = [inference_pb2.Input(text=text)] if text else []
    if message:
        messages = inference_pb2.MessageList(messages=[inference_pb2.ChatMessage(role="user", content=message)])
        prompt.append(inference_pb2.Input(messages=messages))
    return prompt
