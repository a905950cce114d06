"""The service over real HTTPS: who may speak, what is refused and how, what the operator sees."""

import itertools
import json
import logging
import socket
import ssl
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import urllib3

from deskgrid.coordinator.authority import fingerprint
from deskgrid.coordinator.client import CoordinatorRefused, NoAnswer, OperatorClient
from deskgrid.coordinator.service import ServiceError
from deskgrid.model.desktop import VmReport, VmState
from deskgrid.model.reason import Reason
from deskgrid.wire.messages import Enrol
from tests.waiting import SOON_SECONDS, eventually

from .running import HttpsDesktop, Service, context, now, problem, service
from .values import BUSY, FACTS, FULL

pytestmark = pytest.mark.slow


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Service]:
    with service(tmp_path) as running:
        yield running


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """For tests that leave nothing behind."""
    with service(tmp_path_factory.mktemp("shared")) as running:
        yield running


@pytest.fixture
def shared_desk(shared: Service) -> HttpsDesktop:
    return shared.enrol(f"desk-{next(_numbers)}")


@pytest.fixture
def desk(here: Service) -> HttpsDesktop:
    return here.enrol("desk-1")


_numbers = itertools.count(1)


def showing(order, state: VmState = VmState.RUNNING) -> VmReport:
    lease = order.lease
    return VmReport(lease.vm_id, lease.image, lease.size, state, now(), lease.reason, "tcg")


def started(here: Service, desk: HttpsDesktop):
    """Offer an image, let a job wait, and report until there is an order."""
    here.offer(FACTS)
    here.pool.submit("its-sl6")
    for _ in range(100):
        here.pool.negotiate()
        if (orders := desk.say(wait_seconds=0.2).orders) != ():
            return orders[0]
    raise AssertionError(here.operator.status())


def test_the_ca_is_given_to_whoever_asks_and_has_the_fingerprint_that_was_said(shared: Service) -> None:
    warnings.simplefilter("ignore", urllib3.exceptions.InsecureRequestWarning)
    bare = urllib3.PoolManager(cert_reqs="CERT_NONE")
    pem = bare.request("GET", shared.at.url + "/v1/ca").data
    assert fingerprint(pem) == shared.at.fingerprint == shared.operator.make_token().ca_fingerprint
    assert (shared.state / "ca.pem").read_bytes() == pem


def test_plain_http_is_not_spoken(shared: Service) -> None:
    with pytest.raises(urllib3.exceptions.HTTPError):
        urllib3.PoolManager(retries=False).request("GET", shared.at.url.replace("https", "http") + "/v1/health")


def test_an_agent_with_another_ca_does_not_talk_to_it(shared: Service, tmp_path: Path) -> None:
    with pytest.raises(urllib3.exceptions.SSLError):
        urllib3.PoolManager(retries=False).request("GET", shared.at.url + "/v1/health")


def test_nothing_older_than_tls_1_2_is_spoken(shared: Service) -> None:
    warnings.simplefilter("ignore", DeprecationWarning)
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
    old.minimum_version = ssl.TLSVersion.TLSv1
    old.maximum_version = ssl.TLSVersion.TLSv1_1
    port = int(shared.at.url.rsplit(":", 1)[1])
    with socket.create_connection(("127.0.0.1", port)) as plain, pytest.raises(ssl.SSLError):
        old.wrap_socket(plain)


def test_a_job_becomes_an_order_at_once_in_a_held_report(here: Service, desk: HttpsDesktop) -> None:
    here.offer(FACTS)
    desk.say()
    here.pool.submit("its-sl6")
    threading.Timer(0.3, here.pool.negotiate).start()
    begun = time.monotonic()
    told = desk.say(wait_seconds=30.0)
    assert len(told.orders) == 1
    assert time.monotonic() - begun < 25, "it was held to the end"


@pytest.mark.parametrize(
    "bearer", ["", "Bearer ", "Bearer desk-1", "Bearer desk-1:wrong", "Bearer nobody:x", "Basic x"]
)
def test_a_report_without_the_right_credential_is_refused(
    shared: Service, shared_desk: HttpsDesktop, bearer: str
) -> None:
    body = msgspec.json.encode(shared_desk.report())
    status, code = problem(shared.post("/v1/report", body, Authorization=bearer))
    assert status == 401
    assert code in ("no-credential", "credential-wrong")


def test_a_desktop_cannot_use_anothers_credential(shared: Service, shared_desk: HttpsDesktop) -> None:
    shared.enrol("desk-other")
    body = msgspec.json.encode(shared_desk.report())
    bearer = f"Bearer desk-other:{shared_desk.who.credential}"
    assert problem(shared.post("/v1/report", body, Authorization=bearer)) == (401, "credential-wrong")


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("sequence", "one", "$.sequence"),
        ("sent_at", "2026-03-03T20:00:00", "$.sent_at"),
        ("availability", None, "$.availability"),
        ("incarnation", "a b; c", "$.incarnation"),
        ("vms", [{"vm_id": "../../etc"}], "$.vms[0]"),
        ("wait_seconds", "long", "$.wait_seconds"),
    ],
)
def test_wrong_types_are_refused_with_the_path_of_the_fault(
    shared: Service, shared_desk: HttpsDesktop, key: str, value: object, told: str
) -> None:
    raw = json.loads(msgspec.json.encode(shared_desk.report()))
    raw[key] = value
    status, body = shared_desk.post(json.dumps(raw).encode())
    assert problem((status, body)) == (400, "bad-message")
    assert told in body.decode()


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff\xfe", b'"x"', b"{}"])
def test_what_is_no_report_is_refused(shared_desk: HttpsDesktop, body: bytes) -> None:
    assert problem(shared_desk.post(body)) == (400, "bad-message")


def test_another_protocol_is_refused_with_what_to_do(shared_desk: HttpsDesktop) -> None:
    assert problem(shared_desk.post(msgspec.json.encode(shared_desk.report(protocol=2)))) == (400, "protocol")


def test_unknown_fields_are_kept_and_shown(shared: Service, shared_desk: HttpsDesktop) -> None:
    raw = json.loads(msgspec.json.encode(shared_desk.report()))
    raw["gpus"] = ["RTX"]
    assert shared_desk.post(json.dumps(raw).encode())[0] == 200
    assert shared.operator.desktop(shared_desk.who.desktop).unknown == {"gpus": ["RTX"]}


def test_a_body_is_bounded_with_and_without_its_length_said(shared: Service, shared_desk: HttpsDesktop) -> None:
    assert problem(shared_desk.post(b"x" * ((1 << 20) + 1))) == (413, "too-large")
    chunks = (b"x" * 65536 for _ in range(20))
    answer = shared.http.request(
        "POST", shared.at.url + "/v1/report", body=chunks, chunked=True, headers={"Authorization": shared_desk.bearer}
    )
    assert problem((answer.status, answer.data)) == (413, "too-large")


def test_a_head_that_does_not_end_is_cut_off(shared: Service) -> None:
    port = int(shared.at.url.rsplit(":", 1)[1])
    with context(shared.state).wrap_socket(
        socket.create_connection(("127.0.0.1", port)), server_hostname="localhost"
    ) as tls:
        tls.settimeout(10)
        with pytest.raises((ConnectionError, ssl.SSLError)):
            tls.sendall(b"POST /v1/report HTTP/1.1\r\nx: ")
            for _ in range(1000):
                tls.sendall(b"y" * 65536)
        assert shared.operator.status().version


def test_other_methods_and_paths_are_refused_as_problems(shared: Service, shared_desk: HttpsDesktop) -> None:
    for method, path in (("GET", "/v1/report"), ("DELETE", "/v1/status"), ("GET", "/"), ("GET", "/v1/nothing")):
        answer = shared.http.request(method, shared.at.url + path)
        assert problem((answer.status, answer.data))[0] in (404, 405)


def test_the_operators_requests_need_the_operators_token(here: Service, desk: HttpsDesktop) -> None:
    for path in ("status", "desktops", "vms", "leases", "events", "images", "story/x", "why/job/1.0", "why/desktop/x"):
        answer = here.http.request("GET", f"{here.at.url}/v1/{path}", headers={"Authorization": desk.bearer})
        assert problem((answer.status, answer.data))[0] == 401
    for path in ("tokens", "desktop/desk-1/revoke", "vm/x/end"):
        assert problem(here.post(f"/v1/{path}", b"{}", Authorization=desk.bearer))[0] == 401


def test_a_token_enrols_as_often_as_it_says_and_no_more(shared: Service) -> None:
    token = shared.operator.make_token(uses=2).token
    shared.enrol("desk-a", token)
    shared.enrol("desk-b", token)
    body = msgspec.json.encode(Enrol(token, "desk-c"))
    assert problem(shared.post("/v1/enrol", body)) == (403, "token-used-up")


def test_a_name_that_is_no_name_is_refused(shared: Service) -> None:
    token = shared.operator.make_token().token
    for name in ("", "a/b", "x" * 65, "-a", "ü"):
        body = json.dumps({"token": token, "desktop": name}).encode()
        assert problem(shared.post("/v1/enrol", body)) == (400, "bad-message")
    assert problem(shared.post("/v1/enrol", msgspec.json.encode(Enrol(token, "coordinator")))) == (409, "name-reserved")


def test_who_is_right_is_never_refused_for_what_a_neighbour_guesses_and_all_refusals_count(
    here: Service, desk: HttpsDesktop
) -> None:
    fresh = here.operator.make_token().token
    wrong = (
        ("/v1/report", b"{}", {"Authorization": "Bearer desk-1:wrong"}),
        ("/v1/report", b"{}", {}),
        ("/v1/enrol", msgspec.json.encode(Enrol("dgt_abc_x", "desk-9")), {}),
        ("/v1/enrol", b"{", {}),
        ("/v1/enrol", b"x" * 20_000, {}),
        ("/v1/enrol", msgspec.json.encode(Enrol(fresh, "desk-1")), {}),
    )
    told = [problem(here.post(path, body, **headers)) for path, body, headers in wrong]
    assert [code for _, code in told] == [
        "credential-wrong",
        "no-credential",
        "token-unknown",
        "bad-message",
        "too-large",
        "name-taken",
    ]
    for _ in range(4):
        codes = {problem(here.post(path, body, **headers)) for path, body, headers in wrong}
    assert codes == {(429, "too-many-failures")}
    desk.say()
    assert problem(desk.post(b"{}")) == (400, "bad-message"), "who has proved itself is told what is wrong"
    assert here.operator.status().version
    here.enrol("desk-9", fresh).say()


def test_a_body_that_trickles_is_ended_as_a_whole_also_after_a_refusal(shared: Service, monkeypatch) -> None:
    from deskgrid.coordinator.http import api, connection

    monkeypatch.setattr(api, "BODY_SECONDS", 1.0)
    monkeypatch.setattr(connection, "BODY_SECONDS", 2.0)
    port = int(shared.at.url.rsplit(":", 1)[1])
    for path, told in (("enrol", b"408"), ("report", b"401")):
        plain = socket.create_connection(("127.0.0.1", port))
        with context(shared.state).wrap_socket(plain, server_hostname="localhost") as tls:
            tls.settimeout(0.2)
            tls.sendall(f"POST /v1/{path} HTTP/1.1\r\nhost: x\r\ncontent-length: 9000\r\n\r\n".encode())
            said, ended = b"", False
            begun = time.monotonic()
            while not ended and time.monotonic() - begun < SOON_SECONDS:
                try:
                    tls.sendall(b" ")
                    part = tls.recv(4096)
                    said, ended = said + part, not part
                except TimeoutError:
                    continue
                except OSError:
                    ended = True
            assert ended and told in said


def test_an_enrolment_says_little(shared: Service) -> None:
    token = shared.operator.make_token().token
    body = msgspec.json.encode(Enrol(token, "desk-x"))[:-1] + b',"more":"' + b"x" * 20_000 + b'"}'
    assert problem(shared.post("/v1/enrol", body)) == (413, "too-large")


def test_a_report_under_way_when_its_desktop_is_revoked_is_refused(here: Service, desk: HttpsDesktop) -> None:
    desk.say()
    body, port = msgspec.json.encode(desk.report()), int(here.at.url.rsplit(":", 1)[1])
    plain = socket.create_connection(("127.0.0.1", port))
    with context(here.state).wrap_socket(plain, server_hostname="localhost") as tls:
        head = f"POST /v1/report HTTP/1.1\r\nhost: x\r\nauthorization: {desk.bearer}\r\n"
        tls.sendall(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body[:5])
        time.sleep(0.3)  # the credential is looked at; if not yet, the answer is the same
        here.operator.revoke("desk-1", "sold")
        tls.sendall(body[5:])
        assert tls.recv(65536).startswith(b"HTTP/1.1 403")
    assert here.operator.desktop("desk-1").reported_at is None


def test_a_second_agent_is_refused_with_a_sentence(shared: Service, shared_desk: HttpsDesktop) -> None:
    shared_desk.say()
    shared_desk.say(incarnation="second")
    assert problem(shared_desk.post(msgspec.json.encode(shared_desk.report()))) == (409, "another-agent")


def test_the_operator_sees_desktops_vms_leases_stories_and_reasons(here: Service, desk: HttpsDesktop) -> None:
    order = started(here, desk)
    desk.say(showing(order), room=FULL)
    here.pool.join(order.lease.vm_id, "its-sl6", "desk-1")
    here.pool.negotiate()
    operator = here.operator
    eventually(lambda: operator.vms()[0].jobs)
    (vm,) = operator.vms()
    assert (vm.desktop, vm.state, vm.claimed, vm.jobs) == ("desk-1", "running", True, ("1.0",))
    (shown,) = operator.desktops()
    assert (shown.name, shown.silent, shown.leases) == ("desk-1", False, (vm.vm_id,))
    assert shown.state == "full"
    assert operator.desktop("desk-1").reason == operator.why_desktop("desk-1").reason
    assert operator.why_job("1.0").reason.name == "running"
    (lease,) = operator.leases(desktop="desk-1")
    assert lease.joined_at is not None
    eventually(lambda: [line.event for line in operator.story(vm.vm_id)] == ["granted", "ordered", "joined", "claimed"])
    status = operator.status()
    assert (status.desktops, status.reporting, status.vms, status.joined) == (1, 1, 1, 1)
    assert status.images == (FACTS,)
    assert operator.images() == [FACTS]


def test_a_job_whose_vm_has_ended_is_told_why(here: Service, desk: HttpsDesktop) -> None:
    order = started(here, desk)
    vm_id = order.lease.vm_id
    desk.say(showing(order), room=FULL)
    here.pool.join(vm_id, "its-sl6", "desk-1")
    here.pool.negotiate()
    assert here.operator.why_job("1.0").further == ()
    here.pool.leave(vm_id)
    over = Reason("owner-active", "Someone uses the computer.")
    desk.say(ended=(msgspec.structs.replace(showing(order), state=VmState.ENDED, reason=over),), availability=BUSY)
    told = here.operator.why_job("1.0").further[-1].sentence
    assert told == "It ran on desktop desk-1 until its virtual machine ended: Someone uses the computer."


def test_events_come_as_they_happen_and_only_once(here: Service, desk: HttpsDesktop) -> None:
    begun = here.operator.events().last
    came: list[str] = []
    last = begun

    def listen() -> None:
        nonlocal last
        for _ in range(20):
            events = here.operator.events(last, wait_seconds=5.0)
            last = events.last
            came.extend(line.event for line in events.lines)
            if "ordered" in came:
                return

    listener = threading.Thread(target=listen)
    listener.start()
    started(here, desk)
    listener.join(SOON_SECONDS)
    assert came == ["granted", "ordered"]
    assert [line.event for line in here.operator.events(begun).lines] == came
    assert here.operator.events(last).lines == ()


def test_the_operator_ends_a_vm_and_its_desktop_is_told_at_once(here: Service, desk: HttpsDesktop) -> None:
    order = started(here, desk)
    vm = showing(order)
    desk.say(vm, room=FULL)
    threading.Timer(0.3, here.operator.end_vm, (order.lease.vm_id, "to be patched")).start()
    assert desk.say(vm, room=FULL, wait_seconds=15.0).orders == ()
    assert here.operator.vms()[0].withdrawn is not None
    desk.say(ended=(msgspec.structs.replace(vm, state=VmState.ENDED),), availability=BUSY)
    assert here.operator.desktop("desk-1").state == "in use"
    (lease,) = here.operator.leases()
    assert lease.end is not None
    assert lease.end.sentence == "It was ended: to be patched"


def test_a_revoked_desktop_is_refused_its_vms_are_ended_and_it_needs_a_token_made_later(
    here: Service, desk: HttpsDesktop
) -> None:
    early = here.operator.make_token(uses=5).token
    order = started(here, desk)
    desk.say(showing(order), room=FULL)
    assert "revoked" in here.operator.revoke("desk-1", "sold").sentence
    assert problem(desk.post(msgspec.json.encode(desk.report()))) == (403, "desktop-revoked")
    assert here.operator.vms() == []
    assert here.operator.why_desktop("desk-1").reason.sentence == "desk-1 was revoked: sold"
    again = msgspec.json.encode(Enrol(early, "desk-1"))
    assert problem(here.post("/v1/enrol", again)) == (403, "desktop-revoked")
    here.enrol("desk-1").say()


def test_questions_about_what_is_not_there_get_a_sentence(shared: Service) -> None:
    operator = shared.operator
    for ask, code in (
        (lambda: operator.desktop("nobody"), "desktop-unknown"),
        (lambda: operator.desktop("no body"), "bad-name"),
        (lambda: operator.story("vm-none"), "vm-unknown"),
        (lambda: operator.end_vm("vm-none"), "vm-unknown"),
        (lambda: operator.why_job("12"), "bad-job"),
        (lambda: operator.why_job("99.0"), "job-unknown"),
        (lambda: operator.revoke("nobody"), "desktop-unknown"),
        (lambda: operator.make_token(uses=0), "bad-limits"),
        (lambda: operator.leases(limit=-1), "bad-number"),
    ):
        with pytest.raises(CoordinatorRefused) as refused:
            ask()
        assert refused.value.problem.code == code
    assert operator.why_desktop("nobody").reason.name == "not-enrolled"


def test_why_says_when_htcondor_cannot_be_asked(here: Service) -> None:
    here.pool.faults.unreachable = True
    answer = here.operator.why_job("1.0")
    assert (answer.reason.name, answer.reason.reading) == ("pool-unknown", "fake pool: no answer")


def test_a_second_coordinator_on_the_same_state_folder_does_not_start(shared: Service) -> None:
    with pytest.raises(ServiceError, match="another coordinator uses it"), service(shared.state):
        pass


def test_an_address_that_is_in_use_is_said_in_a_sentence(shared: Service, tmp_path: Path) -> None:
    port = int(shared.at.url.rsplit(":", 1)[1])
    with pytest.raises(ServiceError, match=f"port {port}: .*in use"), service(tmp_path / "other", port=port):
        pass


def test_a_damaged_state_folder_is_said_in_a_sentence(tmp_path: Path) -> None:
    for name, told in (("ca.key", "ca.key: got no private key"), ("coordinator.sqlite", "not a database")):
        state = tmp_path / name
        state.mkdir()
        (state / name).write_bytes(b"nonsense" * 1000)
        with pytest.raises(ServiceError, match=told), service(state):
            pass


def test_the_client_says_where_it_looked_when_nobody_answers(shared: Service) -> None:
    with pytest.raises(NoAnswer, match=r"coordinator https://localhost:1: no answer"):
        OperatorClient("https://localhost:1", shared.state).status()
    with pytest.raises(NoAnswer, match="has the coordinator been started there"):
        OperatorClient(shared.at.url, shared.state / "nowhere")


def test_the_service_stops_at_once_though_clients_keep_their_connections(tmp_path: Path) -> None:
    with service(tmp_path) as running:
        desk = running.enrol("desk-1")
        desk.say()
        idle = context(tmp_path).wrap_socket(
            socket.create_connection(("127.0.0.1", int(running.at.url.rsplit(":", 1)[1]))), server_hostname="localhost"
        )
        holding = threading.Thread(target=desk.say, kwargs={"wait_seconds": 30.0})
        holding.start()
        time.sleep(0.3)
        begun = time.monotonic()
        running.at.stop()
        holding.join(SOON_SECONDS)
        assert not holding.is_alive()
    assert time.monotonic() - begun < 25, "it waited for the one that is held"
    idle.close()


def test_secrets_are_in_no_log_no_database_and_no_text_of_a_value(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with service(tmp_path) as running:
        token = running.operator.make_token()
        desk = running.enrol("desk-1", token.token)
        order = started(running, desk)
        desk.say(showing(order), room=FULL)
        here_is = f"{token!r} {order!r} {desk.who!r}"
        secrets = {
            "enrolment token": token.token.rsplit("_", 1)[1],
            "credential": desk.who.credential,
            "pool token": order.instance.token,
            "operator token": (tmp_path / "operator.token").read_text().strip(),
        }
    files = [p for p in tmp_path.rglob("*") if p.is_file() and p.name != "operator.token"]
    kept = b"".join(path.read_bytes() for path in files)
    for what, secret in secrets.items():
        assert secret.encode() not in kept, what
        assert secret not in caplog.text, what
        assert secret not in here_is, what


def test_the_state_folder_and_its_secrets_are_readable_by_the_service_only(shared: Service) -> None:
    assert shared.state.stat().st_mode & 0o777 == 0o700
    for name in ("ca.key", "server.key", "operator.token"):
        assert (shared.state / name).stat().st_mode & 0o777 == 0o600


def test_a_token_that_the_operator_revoked_enrols_nobody_and_whom_it_enrolled_stays(tmp_path: Path) -> None:
    with service(tmp_path) as here:
        made = here.operator.make_token(uses=5)
        desk = here.enrol("desk-1", made.token)
        desk.say()
        assert here.operator.revoke_token(made.id).sentence.startswith(f"Enrolment token {made.id} is revoked")
        body = msgspec.json.encode(Enrol(made.token, "desk-2"))
        assert problem(here.post("/v1/enrol", body)) == (403, "token-expired")
        desk.say()
        for token_id, code in ((made.id, "token-expired"), ("nobody", "token-unknown")):
            with pytest.raises(CoordinatorRefused) as refused:
                here.operator.revoke_token(token_id)
            assert refused.value.problem.code == code
