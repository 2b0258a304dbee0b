# SPDX-License-Identifier: Apache-2.0
"""What commands say to unusable arguments."""

import pytest


def refuser(main, program, capsys):
    """Make a function that runs a command: it must end with status 2, in one line, without a traceback."""

    def refuse(*arguments):
        with pytest.raises(SystemExit) as error:
            main([str(argument) for argument in arguments])
        assert error.value.code == 2
        message = capsys.readouterr().err.strip().splitlines()[-1]
        assert message.startswith(f"{program}: ")
        return message

    return refuse
