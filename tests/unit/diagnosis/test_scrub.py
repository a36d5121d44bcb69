"""Secrets go wherever they stand; what helps stays."""

import base64

import pytest

from agent.diagnosis.scrub import Scrubber

PEM = "-----BEGIN EC PRIVATE KEY-----\nMHcCAQEEIIrYSSNQFaA2Hwf1duRSxKtLYX5CB04fSeQ6tF1aY\noAoGCCqGSM49\n-----END EC PRIVATE KEY-----"


@pytest.mark.parametrize("text", [
    "opening rtsp://admin:hunter2@cam/1 failed", "https://up/x?token=hunter2&y=1", "proxy http://me:hunter2@proxy:3128",
    "password=hunter2", "password: hunter2", '"api_key": "hunter2"', "API-KEY='hunter2'", "my_secret_value = hunter2", "UPSTREAM_TOKEN=hunter2 next",
    "Authorization: Bearer hunter2", "authorization: Basic hunter2 and more hunter2", "got bearer hunter2 back", "Proxy-Authorization=Digest hunter2",
    "curl --token hunter2 x", "curl --api-key=hunter2 x", "SetCredential=fleet:hunter2 with hunter2", "Environment=API_TOKEN=hunter2 and hunter2",
    'Environment="X=1" "PASSWORD=a hunter2"', "passwd:hunter2", 'passphrase = "two hunter2 words"', PEM.replace("oAoGCCqGSM49", "hunter2"),
    "rtsp://cam/user=admin_password=hunter2_channel=1",
])
def test_a_secret_is_known_by_its_place(text):
    assert "hunter2" not in Scrubber().text(text)
    assert "***" in Scrubber().text(text)


@pytest.mark.parametrize("text", [
    'token = "file:/etc/vedette/secrets/token"', 'password = "credential:cam"', "LoadCredential=token:/etc/vedette/credentials/token", "credential:cam",
    "token or certificate refused", "source door: no frame for 5 s", "/etc/vedette/credentials", "EnvironmentFile=/etc/default/vedette", "Environment=PYTHONNOUSERSITE=1",
])
def test_what_is_no_secret_stays(text):
    assert Scrubber().text(text) == text


def test_known_secrets_go_in_every_form_they_travel_in():
    secret = "pa ss/w+rd"
    forms = (secret, "pa%20ss%2Fw%2Brd", "pa+ss%2Fw%2Brd", base64.b64encode(secret.encode()).decode())
    for form in forms:
        assert Scrubber([f"{secret}\n"]).text(f"x{form}y") == "x***y"
    key = Scrubber([PEM]).text("it said MHcCAQEEIIrYSSNQFaA2Hwf1duRSxKtLYX5CB04fSeQ6tF1aY and more")
    assert key == "it said *** and more"


def test_the_longer_of_two_secrets_goes_first_and_very_short_ones_do_no_harm():
    assert Scrubber(["hunter", "hunter22"]).text("a hunter22 b") == "a *** b"
    assert Scrubber(["a", ""]).text("a banana") == "a banana"


def test_values_are_walked_and_telling_keys_hidden():
    value = {"upstream": {"token": "hunter2", "client_key": "file:/k", "url": "https://u:hunter2@x/"}, "source": {"a": {"username": "admin", "password": 12}},
             "list": [{"secret": "x"}, "rtsp://u:hunter2@x"], "n": 3, "none": None}
    assert Scrubber().value(value, by_key=True) == {
        "upstream": {"token": "***", "client_key": "file:/k", "url": "https://***@x/"}, "source": {"a": {"username": "***", "password": "***"}},
        "list": [{"secret": "***"}, "rtsp://***@x"], "n": 3, "none": None}
    assert Scrubber().value({"token": True}) == {"token": True}
